"""What other tools make of the same trained file, each as its documentation says.

    OTHERS/bin/python benchmarks/compression/others.py base.onnx calibration.npy OUT

`OTHERS` is an environment with olive-ai, nncf, openvino, onnxruntime and torch, apart from
edgebench's own. Writes one file a tool into OUT, and `others.json` with versions, files, seconds,
and what a tool said where it failed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("onnxruntime", "nncf", "openvino", "olive-ai", "torch", "onnx")


class Examples:
    """ONNX Runtime's calibration reader over examples [N, C, H, W], one at a time."""

    def __init__(self, name: str, examples: np.ndarray) -> None:
        self.name, self.examples = name, examples
        self.rewind()

    def rewind(self) -> None:
        """Start over."""
        self.feeds: Iterator[dict[str, np.ndarray]] = (
            {self.name: self.examples[i : i + 1]} for i in range(len(self.examples))
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed, or None."""
        return next(self.feeds, None)


def _input_name(base: Path) -> str:
    import onnxruntime

    return onnxruntime.InferenceSession(str(base)).get_inputs()[0].name


def ort_static(base: Path, examples: np.ndarray, out: Path, **options: Any) -> Path:
    """`quantize_static` after `quant_pre_process`, as ONNX Runtime's documentation has it."""
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as name:
        prepared = Path(name) / "prepared.onnx"
        quant_pre_process(str(base), str(prepared), skip_symbolic_shape=True)
        quantize_static(str(prepared), str(out), Examples(_input_name(base), examples), **options)
    return out


def ort_u8s8(base: Path, examples: np.ndarray, out: Path, *, reduce_range: bool) -> Path:
    """Per channel, unsigned activations, signed weights."""
    from onnxruntime.quantization import QuantFormat, QuantType

    return ort_static(
        base,
        examples,
        out,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def nncf_onnx(base: Path, examples: np.ndarray, out: Path) -> Path:
    """`nncf.quantize` on the ONNX model, defaults."""
    import nncf
    import onnx

    name = _input_name(base)
    data = nncf.Dataset([{name: examples[i : i + 1]} for i in range(len(examples))])
    onnx.save(nncf.quantize(onnx.load(base), data), out)
    return out


def nncf_openvino(base: Path, examples: np.ndarray, out: Path) -> Path:
    """`nncf.quantize` on the OpenVINO model, defaults."""
    import nncf
    import openvino

    model = openvino.Core().read_model(str(base))
    data = nncf.Dataset([examples[i : i + 1] for i in range(len(examples))])
    place = out.with_suffix(".xml")
    openvino.save_model(nncf.quantize(model, data), place, compress_to_fp16=False)
    return place


def olive_static(base: Path, examples: np.ndarray, out: Path) -> Path:
    """Olive's `OnnxStaticQuantization` pass, defaults."""
    from olive.data.config import DataComponentConfig, DataConfig
    from olive.data.registry import Registry
    from olive.hardware import DEFAULT_CPU_ACCELERATOR
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.onnx.quantization import OnnxStaticQuantization

    name = _input_name(base)

    @Registry.register_dataset("edgebench_examples")
    def dataset(*_: Any, **__: Any) -> list[tuple[dict[str, np.ndarray], int]]:
        return [({name: example}, 0) for example in examples]

    config = DataConfig(
        name="calibration", load_dataset_config=DataComponentConfig(type="edgebench_examples")
    )
    made = create_pass_from_dict(
        OnnxStaticQuantization,
        {"data_config": config},
        disable_search=True,
        accelerator_spec=DEFAULT_CPU_ACCELERATOR,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = made.run(ONNXModelHandler(str(base)), str(Path(folder) / "model.onnx"))
        out.write_bytes(Path(result.model_path).read_bytes())
    return out


TOOLS: dict[str, Callable[[Path, np.ndarray, Path], Path]] = {
    "ort-defaults": ort_static,
    "ort-u8s8": lambda b, x, o: ort_u8s8(b, x, o, reduce_range=False),
    "ort-u8s8-reduced": lambda b, x, o: ort_u8s8(b, x, o, reduce_range=True),
    "nncf-onnx": nncf_onnx,
    "nncf-openvino": nncf_openvino,
    "olive": olive_static,
}


def main() -> int:
    """Run every tool; gives the exit code."""
    base, calibration, out = (Path(text) for text in sys.argv[1:4])
    out.mkdir(parents=True, exist_ok=True)
    examples = np.load(calibration, allow_pickle=False)
    made: dict[str, dict[str, Any]] = {}
    for name, tool in TOOLS.items():
        start = time.perf_counter()
        try:
            file = tool(base, examples, out / f"{name}.onnx")
            made[name] = {"file": file.name}
        except Exception as error:
            traceback.print_exc()
            made[name] = {"problem": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        made[name]["seconds"] = time.perf_counter() - start
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    (out / "others.json").write_text(json.dumps({"versions": versions, "made": made}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
