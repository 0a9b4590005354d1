"""OpenVINO, on Intel and ARM processors and Intel's GPUs and NPUs; it reads ONNX files as they are.

API: https://docs.openvino.ai/2026/api/ie_python_api/api.html and, for the properties,
https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes.html.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Dict, List

from ..errors import ModelFailedError, one_line
from .arrays import answer_of, buffers_for, writer
from .base import Inspection, Model, Query, Runtime, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from .base import Answer, Feed

_PROCESSOR = "CPU"
_INTEGERS = {"i8", "u8", "i4", "u4"}
# Layers of the executed graph that move numbers and compute none.
_MOVES = {"Input", "Output", "Parameter", "Result", "Constant", "Const", "Reorder", "Reshape"}


class OpenVino(Runtime):
    """OpenVINO."""

    name = "openvino"
    title = "OpenVINO"
    package = "openvino"
    accelerators = ("GPU", "NPU")
    processor = _PROCESSOR

    def version(self) -> str:
        """The version of the installed package, without its build number."""
        import openvino

        return str(openvino.__version__).partition("-")[0]

    def offered(self) -> List[str]:
        """The devices it finds; of several of a kind also the kind (GPU for GPU.0)."""
        import openvino

        found = [str(device) for device in openvino.Core().available_devices]
        kinds = [device.partition(".")[0] for device in found]
        return list(dict.fromkeys([*found, *kinds]))

    def load(
        self, path: Path, providers: List[str], threads: int, session_config: Dict[str, str]
    ) -> Model:
        """Load a model file for low latency, one stream, nothing cached on disk.

        Several devices share the model, each operator on the first that knows it (HETERO).
        `session_config` holds OpenVINO's properties by their names. On a processor with bfloat16
        OpenVINO computes a float32 model in bfloat16 unless float32 is asked for, so it is.
        """
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(str(path))
            compiled = core.compile_model(
                model, _device(providers), _properties(providers, threads, session_config)
            )
            return _OpenVinoModel(compiled, providers)
        except ModelFailedError:
            raise
        except Exception as error:
            raise ModelFailedError(f"OpenVINO cannot load the model: {_plain(error)}") from error

    def inspect(
        self,
        path: Path,
        providers: List[str],
        threads: int,
        session_config: Dict[str, str],
        feed: Feed,
    ) -> Inspection:
        """The layers of the executed graph with the numbers they compute in: `Convolution f32`.

        OpenVINO has no session without optimisations, so there is no unoptimised answer.
        """
        model = self.load(path, providers, threads, session_config)
        answer = model.infer(feed)
        assert isinstance(model, _OpenVinoModel)  # noqa: S101 - load made it
        placed = _placement(path, providers) if len(model.providers) > 1 else {}
        nodes: Dict[str, Dict[str, int]] = {}
        integer: Dict[str, int] = {}
        for names, layer, precision in model.layers():
            if layer in _MOVES:
                continue
            where = next((placed[n] for n in names if n in placed), model.providers[0])
            counts = nodes.setdefault(where, {})
            key = f"{layer} {precision}"
            counts[key] = counts.get(key, 0) + 1
            if precision in _INTEGERS:
                integer[layer] = integer.get(layer, 0) + 1
        return Inspection(nodes, integer, optimised=answer)


class _OpenVinoModel(Model):
    def __init__(self, compiled: Any, asked: List[str]) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self.inputs = [_spec(port, "input") for port in compiled.inputs]
        self.outputs = [_spec(port, "output") for port in compiled.outputs]
        used = [_known_as(str(d), asked) for d in compiled.get_property("EXECUTION_DEVICES")]
        self.providers = list(dict.fromkeys(used))

    def infer(self, feed: Feed) -> Answer:
        arrays = buffers_for(feed, self.inputs)
        try:
            self._request.infer(dict(enumerate(arrays)))
            tensors = [self._request.get_output_tensor(i) for i in range(len(self.outputs))]
            return answer_of([tensor.data for tensor in tensors])
        except Exception as error:
            raise _cannot_run(error) from error

    def bind(self, feed: Feed, answer: Answer) -> Query:
        import numpy as np
        from openvino import Tensor

        buffers = buffers_for(feed, self.inputs)
        results = [np.zeros(a.shape, dtype=s.dtype) for a, s in zip(answer, self.outputs)]
        request = self._compiled.create_infer_request()
        for index, buffer in enumerate(buffers):
            request.set_input_tensor(index, Tensor(buffer, shared_memory=True))
        for index, result in enumerate(results):
            request.set_output_tensor(index, Tensor(result, shared_memory=True))
        return Query(
            write=writer(buffers),
            call=_run,
            bound=request,
            read=functools.partial(answer_of, results),
            transfers=self.providers != [_PROCESSOR],
        )

    def layers(self) -> List[Any]:
        """(original names, layer type, precision) of each layer that is executed."""
        found = []
        for operator in self._compiled.get_runtime_model().get_ordered_ops():
            seen = operator.get_rt_info()
            names = _text(seen, "originalLayersNames").split(",")
            found.append((names, _text(seen, "layerType"), _text(seen, "runtimePrecision")))
        return found


def _device(providers: List[str]) -> str:
    return providers[0] if len(providers) == 1 else f"HETERO:{','.join(providers)}"


def _properties(
    providers: List[str], threads: int, session_config: Dict[str, str]
) -> Dict[str, Any]:
    processor = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        # The agent pins the process; left on, OpenVINO chooses among all cores anew.
        "ENABLE_CPU_PINNING": False,
    }
    common: Dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if providers == [_PROCESSOR]:
        return {**common, **processor, **session_config}
    # A provider may be a device that stands for several: "HETERO:GPU,CPU".
    members = [device for one in providers for device in one.rpartition(":")[2].split(",")]
    if _PROCESSOR in members:
        common["DEVICE_PROPERTIES"] = {_PROCESSOR: processor}
    return {**common, **session_config}


def _placement(path: Path, providers: List[str]) -> Dict[str, str]:
    """The device of each operator of the file, by its name."""
    import openvino

    core = openvino.Core()
    seen = core.query_model(core.read_model(str(path)), _device(providers))
    return {str(name): _known_as(str(device), providers) for name, device in seen.items()}


def _known_as(device: str, asked: List[str]) -> str:
    """The name a device was asked for by: GPU.0 is GPU where that is what was said."""
    return device if device in asked else device.partition(".")[0]


def _spec(port: Any, role: str) -> TensorSpec:
    import numpy as np

    name = str(port.get_any_name()) if port.get_names() else f"{role}-{port.get_index()}"
    try:
        dtype = np.dtype(port.get_element_type().to_dtype()).name
    except Exception as error:
        kind = port.get_element_type().get_type_name()
        raise ModelFailedError(
            f"its {role} '{name}' is {kind}; edgebench knows arrays of numbers alone"
        ) from error
    shape = [d.get_length() if d.is_static else None for d in port.get_partial_shape()]
    return TensorSpec(name, dtype, shape)


def _text(info: Any, key: str) -> str:
    return str(info[key].value) if key in info else ""


def _run(request: Any) -> None:
    try:
        # Its own copies of the outputs are for who has not bound them.
        request.infer(share_outputs=True)
    except Exception as error:
        raise _cannot_run(error) from error


def _cannot_run(error: Exception) -> ModelFailedError:
    return ModelFailedError(f"OpenVINO cannot run the model: {_plain(error)}")


def _plain(error: Exception) -> str:
    """OpenVINO's message without the source files it passed through."""
    text = re.sub(r"(Exception from|Check '.*?' failed at) \S+\.(cpp|hpp|h):\d+:?", "", str(error))
    return one_line(text.replace("\n", " ").strip(), 300)
