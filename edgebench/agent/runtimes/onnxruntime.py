"""ONNX Runtime, on the processor or through its CUDA and TensorRT providers.

API: https://onnxruntime.ai/docs/api/python/api_summary.html and, for data on a device,
https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from ..errors import ModelFailedError, one_line
from .base import Model, Query, Runtime

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_CUDA = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


class OnnxRuntime(Runtime):
    """ONNX Runtime."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    package = "onnxruntime"
    accelerators = _CUDA
    processor = "CPUExecutionProvider"

    def version(self) -> str:
        """The version of the installed package."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def offered(self) -> list[str]:
        """The providers this build offers; whether their libraries are there shows on loading."""
        import onnxruntime

        return [str(p) for p in onnxruntime.get_available_providers()]

    def load(
        self, path: Path, providers: list[str], threads: int, session_config: dict[str, str]
    ) -> Model:
        """Load an .onnx file with all graph optimisations."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            for key, value in session_config.items():
                options.add_session_config_entry(key, value)
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            raise ModelFailedError(
                f"ONNX Runtime cannot load the model: {plain_message(error)}"
            ) from error
        return _OnnxModel(session)


class _OnnxModel(Model):
    def __init__(self, session: Any) -> None:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1:
            raise ModelFailedError(f"it has {len(inputs)} inputs; a classifier has one")
        if inputs[0].type not in _DTYPES:
            raise ModelFailedError(
                f"its input '{inputs[0].name}' is {inputs[0].type}; a classifier takes floats"
            )
        self._session = session
        self._input_name = inputs[0].name
        self._dtype = _DTYPES[inputs[0].type]
        self._output_dtype = _DTYPES.get(outputs[0].type, "float32")
        self.output_name = outputs[0].name
        self.providers = [str(p) for p in session.get_providers()]
        batch = inputs[0].shape[0] if inputs[0].shape else None
        self.fixed_batch = batch if isinstance(batch, int) else None

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        import numpy as np

        feed = {self._input_name: np.ascontiguousarray(batch, dtype=self._dtype)}
        try:
            output = self._session.run([self.output_name], feed)[0]
            return np.asarray(output, dtype=np.float32)
        except Exception as error:
            raise ModelFailedError(
                f"ONNX Runtime cannot run the model: {plain_message(error)}"
            ) from error

    def bind(self, example: NDArray[np.float32], output: NDArray[np.float32]) -> Query:
        import numpy as np
        from onnxruntime import OrtValue

        host = np.array(example[None], dtype=self._dtype, order="C")
        # A processor OrtValue aliases its array, so writing into the arrays is enough.
        answer = np.zeros(output.shape, dtype=self._output_dtype)
        binding = self._session.io_binding()
        binding.bind_ortvalue_output(self.output_name, OrtValue.ortvalue_from_numpy(answer))
        run: Any = functools.partial(self._session.run_with_iobinding, binding)
        if any(p in _CUDA for p in self.providers):
            # Binding copies a host input to the device once; a query has to pay for its own copy.
            # The bound output lies on the host: the run ends with the copy back.
            device = OrtValue.ortvalue_from_numpy(host, "cuda", 0)
            binding.bind_ortvalue_input(self._input_name, device)
            bare = run

            def run() -> None:
                device.update_inplace(host)
                bare()

        else:
            binding.bind_ortvalue_input(self._input_name, OrtValue.ortvalue_from_numpy(host))
        return Query(
            write=functools.partial(np.copyto, host[0], casting="same_kind"),
            run=run,
            read=lambda: answer.astype(np.float32),
        )


def plain_message(error: Exception) -> str:
    """ONNX Runtime's message without its error code, source file and C++ signature."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    text = re.sub(r"^Load model from \S+ failed:\s*", "", text)
    text = re.sub(r"^/\S+\.(cc|h):\d+ .*\)( const)?\s+(?=[A-Z\[])", "", text)
    return one_line(text, 300)
