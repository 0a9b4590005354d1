"""ONNX Runtime, on the processor or through any of its other execution providers.

API: https://onnxruntime.ai/docs/api/python/api_summary.html and, for data on a device,
https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html.
"""

from __future__ import annotations

import functools
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from ..errors import ModelFailedError, one_line
from .arrays import answer_of, buffers_for, writer
from .base import Inspection, Model, Query, Runtime, TensorSpec

if TYPE_CHECKING:
    from .base import Answer, Feed

_BITS = (8, 16, 32, 64)
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in _BITS},
}

_PROCESSOR = "CPUExecutionProvider"
# Their tensors live in the memory of an NVIDIA card, which ONNX Runtime calls "cuda".
_CUDA = (
    "NvTensorRTRTXExecutionProvider",
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
)
# Their tensors live on a device too, but Python can make none there.
_OTHER_DEVICES = (
    "MIGraphXExecutionProvider",
    "ROCMExecutionProvider",
    "DmlExecutionProvider",
    "CANNExecutionProvider",
)
# These read and write the host's memory.
_ON_HOST = ("QNNExecutionProvider", "CoreMLExecutionProvider")

# Operators that add or multiply integers. QuantizeLinear and DequantizeLinear only convert, and
# MatMulNBits may compute in floats.
_INTEGER = re.compile(
    r"QLinear\w+|QGemm|QAttention|QOrdered\w+|(MatMul|Conv)Integer\w*|DynamicQuantize(MatMul|LSTM)"
)


class OnnxRuntime(Runtime):
    """ONNX Runtime."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    package = "onnxruntime"
    accelerators = (*_CUDA, *_OTHER_DEVICES, *_ON_HOST)
    processor = _PROCESSOR

    def version(self) -> str:
        """The version of the installed package."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def offered(self) -> List[str]:
        """The providers this build offers; whether their libraries are there shows on loading."""
        import onnxruntime

        return [str(p) for p in onnxruntime.get_available_providers()]

    def load(
        self, path: Path, providers: List[str], threads: int, session_config: Dict[str, str]
    ) -> Model:
        """Load an .onnx file with all graph optimisations.

        `session_config` holds session configuration entries (`session.x64quantprecision`), and
        options of a provider under its name (`QNNExecutionProvider.backend_path`).
        """
        return _OnnxModel(_open(path, providers, threads, session_config))

    def inspect(
        self,
        path: Path,
        providers: List[str],
        threads: int,
        session_config: Dict[str, str],
        feed: Feed,
    ) -> Inspection:
        """The operators of one profiled inference, and the answers with and without optimisation.

        The unoptimised session runs on the processor: it is what the file says, not what a kernel
        makes of it.
        """
        with tempfile.TemporaryDirectory(prefix="edgebench-profile-") as folder:
            session = _open(
                path, providers, threads, session_config, profile=str(Path(folder) / "profile")
            )
            optimised = _OnnxModel(session).infer(feed)
            nodes = _executed(Path(session.end_profiling()))
        integer: Dict[str, int] = {}
        for operators in nodes.values():
            for operator, count in operators.items():
                if _INTEGER.fullmatch(operator):
                    integer[operator] = integer.get(operator, 0) + count
        try:
            plain = _OnnxModel(_open(path, [_PROCESSOR], threads, session_config, optimise=False))
            unoptimised: Optional[Answer] = plain.infer(feed)
        except ModelFailedError:
            # Only an accelerator runs this model (its own operators, say): nothing to compare.
            unoptimised = None
        return Inspection(nodes, integer, optimised=optimised, unoptimised=unoptimised)


class _OnnxModel(Model):
    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = [_spec(value, "input") for value in session.get_inputs()]
        self.outputs = [_spec(value, "output") for value in session.get_outputs()]
        self.providers = [str(p) for p in session.get_providers()]

    def infer(self, feed: Feed) -> Answer:
        arrays = buffers_for(feed, self.inputs)
        named = {spec.name: array for spec, array in zip(self.inputs, arrays)}
        try:
            return answer_of(self._session.run([spec.name for spec in self.outputs], named))
        except Exception as error:
            raise _cannot_run(error) from error

    def bind(self, feed: Feed, answer: Answer) -> Query:
        import numpy as np
        from onnxruntime import OrtValue

        # An OrtValue on the host aliases its array, so writing into the arrays is enough.
        buffers = buffers_for(feed, self.inputs)
        hosts = [OrtValue.ortvalue_from_numpy(buffer) for buffer in buffers]
        results = [np.zeros(a.shape, dtype=s.dtype) for a, s in zip(answer, self.outputs)]
        binding = self._session.io_binding()
        for spec, result in zip(self.outputs, results):
            binding.bind_ortvalue_output(spec.name, OrtValue.ortvalue_from_numpy(result))
        write, read = writer(buffers), functools.partial(answer_of, results)
        if not any(p in _CUDA or p in _OTHER_DEVICES for p in self.providers):
            _bind_inputs(binding, self.inputs, hosts)
            return Query(write, self._session.run_with_iobinding, read, bound=binding)
        # Binding copies a host input to the device once; a query has to pay for its own copy.
        # The bound outputs lie on the host: the run ends with the copy back.
        if any(p in _CUDA for p in self.providers):
            devices = [OrtValue.ortvalue_from_numpy(buffer, "cuda", 0) for buffer in buffers]
            copy = functools.partial(_update, list(zip(devices, buffers)))
            _bind_inputs(binding, self.inputs, devices)
            resident = Query(write, _infer, read, bound=self._resident(devices, results))
        else:
            copy, resident = functools.partial(_bind_inputs, binding, self.inputs, hosts), None
            copy()
        there = _Bound(self._session, binding, copy)
        return Query(write, _infer, read, bound=there, transfers=True, resident=resident)

    def _resident(self, devices: List[Any], results: List[Any]) -> _Bound:
        """From inputs on the device to outputs that stay there."""
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        _bind_inputs(binding, self.inputs, devices)
        for spec, result in zip(self.outputs, results):
            binding.bind_ortvalue_output(
                spec.name, OrtValue.ortvalue_from_shape_and_type(result.shape, result.dtype, "cuda")
            )
        return _Bound(self._session, binding, None)


def _open(
    path: Path,
    providers: List[str],
    threads: int,
    session_config: Dict[str, str],
    *,
    profile: Optional[str] = None,
    optimise: bool = True,
) -> Any:
    import onnxruntime

    entries, of_provider = _split(session_config)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        return onnxruntime.InferenceSession(
            str(path), options, providers=[(p, of_provider.get(p, {})) for p in providers]
        )
    except Exception as error:
        raise ModelFailedError(
            f"ONNX Runtime cannot load the model: {plain_message(error)}"
        ) from error


def _split(session_config: Dict[str, str]) -> Tuple[Dict[str, str], Dict[str, Dict[str, str]]]:
    """Entries for the session, and options by provider."""
    entries: Dict[str, str] = {}
    of_provider: Dict[str, Dict[str, str]] = {}
    for key, value in session_config.items():
        owner, _, option = key.partition(".")
        if owner.endswith("ExecutionProvider"):
            of_provider.setdefault(owner, {})[option] = value
        else:
            entries[key] = value
    return entries, of_provider


def _spec(value: Any, role: str) -> TensorSpec:
    if value.type not in _DTYPES:
        raise ModelFailedError(
            f"its {role} '{value.name}' is {value.type}; edgebench knows arrays of numbers alone"
        )
    # A free size is a name or None; some exporters write 0 or −1 for one.
    shape = [size if isinstance(size, int) and size > 0 else None for size in value.shape]
    return TensorSpec(str(value.name), _DTYPES[value.type], shape)


def _bind_inputs(binding: Any, inputs: List[TensorSpec], values: List[Any]) -> None:
    for spec, value in zip(inputs, values):
        binding.bind_ortvalue_input(spec.name, value)


def _update(pairs: List[Tuple[Any, Any]]) -> None:
    for device, host in pairs:
        device.update_inplace(host)


class _Bound:
    """A session on a device, its binding, and what copies the inputs there."""

    def __init__(self, session: Any, binding: Any, copy: Optional[Callable[[], None]]) -> None:
        self.session = session
        self.binding = binding
        self.copy = copy


def _infer(bound: _Bound) -> None:
    try:
        if bound.copy is not None:
            bound.copy()
        bound.session.run_with_iobinding(bound.binding)
    except Exception as error:
        raise _cannot_run(error) from error


def _executed(profile: Path) -> Dict[str, Dict[str, int]]:
    """How many operators a profile saw run, by provider and operator.

    A profile is a list of Chrome trace events; a kernel's has the category Node and `op_name` and
    `provider` among its arguments.
    """
    found: Dict[str, Dict[str, int]] = {}
    for event in json.loads(profile.read_text(encoding="utf-8")):
        seen = event.get("args", {})
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        # What a provider compiled into one kernel has a name with a hash in it.
        operator = re.sub(r"_\d+(_\d+)*$", "", seen["op_name"])
        operators = found.setdefault(seen["provider"], {})
        operators[operator] = operators.get(operator, 0) + 1
    return found


def _cannot_run(error: Exception) -> ModelFailedError:
    return ModelFailedError(f"ONNX Runtime cannot run the model: {plain_message(error)}")


def plain_message(error: Exception) -> str:
    """ONNX Runtime's message without its error code, source file and C++ signature."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    text = re.sub(r"^Load model from \S+ failed:\s*", "", text)
    text = re.sub(r"^/\S+\.(cc|h):\d+ .*\)( const)?\s+(?=[A-Z\[])", "", text)
    return one_line(text, 300)
