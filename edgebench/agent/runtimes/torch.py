"""PyTorch itself, eager or compiled, for reference: it runs programs of torch.export.

API: https://docs.pytorch.org/docs/stable/export.html and
https://docs.pytorch.org/docs/stable/generated/torch.compile.html.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from ..errors import ModelFailedError, one_line
from .arrays import answer_of, buffers_for, writer
from .base import Inspection, Model, Query, Runtime, TensorSpec
from .pt2_archive import clean_archive, operators_of

if TYPE_CHECKING:
    from pathlib import Path

    from .base import Answer, Feed

_MODES = ("eager", "compile")


class Torch(Runtime):
    """PyTorch."""

    name = "torch"
    title = "PyTorch"
    package = "torch"
    suffix = ".pt2"
    accelerators = ("cuda",)
    processor = "cpu"

    def version(self) -> str:
        """The version of the installed package."""
        import torch

        return str(torch.__version__)

    def offered(self) -> List[str]:
        """The processor, and "cuda" where there is a card torch can use."""
        import torch

        return ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]

    def load(
        self, path: Path, providers: List[str], threads: int, session_config: Dict[str, str]
    ) -> Model:
        """Load a .pt2 file without executing anything in it.

        `session_config` may hold `mode`: "eager" (the default), or "compile" for torch.compile,
        which needs a C++ compiler on the device and compiles on the first inference.
        """
        import torch

        mode = session_config.get("mode", "eager")
        unknown = sorted(set(session_config) - {"mode"})
        if unknown or mode not in _MODES:
            wrong = unknown[0] if unknown else f"mode: {mode}"
            raise ModelFailedError(
                f"PyTorch has no session_config '{wrong}'; it takes mode: eager or compile"
            )
        archive = clean_archive(path)
        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):
            # It can be said once a process, and has no effect on a model without branches.
            torch.set_num_interop_threads(1)
        try:
            return _TorchModel(_program(archive), providers[0], compiled=mode == "compile")
        except Exception as error:
            raise ModelFailedError(f"PyTorch cannot load the model: {_plain(error)}") from error

    def inspect(
        self,
        path: Path,
        providers: List[str],
        threads: int,
        session_config: Dict[str, str],
        feed: Feed,
    ) -> Optional[Inspection]:
        """The operators of the program, which eager mode calls one by one, all in floats.

        None for a compiled model: what its kernels hold cannot be told.
        """
        if session_config.get("mode") == "compile":
            return None
        model = self.load(path, providers, threads, session_config)
        nodes = {model.providers[0]: operators_of(clean_archive(path))}
        return Inspection(nodes, {}, optimised=model.infer(feed))


class _TorchModel(Model):
    def __init__(self, program: Any, device: str, *, compiled: bool) -> None:
        import torch

        self.inputs, self.outputs = _specs(program)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module = program.module()
        # They check the inputs' shapes on each call, for longer than a small network computes;
        # here a feed is checked when its buffers are made.
        module._forward_pre_hooks.clear()
        if compiled:
            import torch._inductor.config as inductor

            # Its helper processes would live on beside what is timed.
            inductor.compile_threads = 1
            module = torch.compile(module)
        self._module = module
        self._device = torch.device(device)
        self.providers = [device]

    def infer(self, feed: Feed) -> Answer:
        import torch

        arrays = buffers_for(feed, self.inputs)
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tensors = [torch.from_numpy(a).to(self._device) for a in arrays]
                return answer_of([t.cpu().numpy() for t in _flat(self._module(*tensors))])
        except Exception as error:
            raise _cannot_run(error) from error

    def bind(self, feed: Feed, answer: Answer) -> Query:
        import torch

        buffers = buffers_for(feed, self.inputs)
        hosts = [torch.from_numpy(buffer) for buffer in buffers]
        bound = _OnHost(self._module, hosts)
        if self._device.type == "cpu":
            return Query(writer(buffers), _OnHost.run, bound.read, bound=bound)
        there = _OnDevice(self._module, hosts, [tensor.to(self._device) for tensor in hosts])
        return Query(
            writer(buffers),
            _OnDevice.run,
            there.read,
            bound=there,
            transfers=True,
            resident=Query(writer(buffers), _OnDevice.run_resident, there.read, bound=there),
        )


class _OnHost:
    """A module and its input tensors, which alias the arrays that are written."""

    def __init__(self, module: Any, tensors: List[Any]) -> None:
        import torch

        self._module = module
        self._tensors = tensors
        self._inference_mode = torch.inference_mode
        self.last: Tuple[Any, ...] = ()

    def run(self) -> None:
        """One inference; torch makes the output tensors anew each time."""
        try:
            with self._inference_mode():
                self.last = _flat(self._module(*self._tensors))
        except Exception as error:
            raise _cannot_run(error) from error

    def read(self) -> Answer:
        """Copies of the last outputs."""
        return answer_of([tensor.numpy() for tensor in self.last])


class _OnDevice(_OnHost):
    """The same on a card: copies there and back are part of a query."""

    def __init__(self, module: Any, hosts: List[Any], tensors: List[Any]) -> None:
        import torch

        super().__init__(module, tensors)
        self._hosts = hosts
        self._synchronize = torch.cuda.synchronize

    def run(self) -> None:
        """Copy the inputs there, infer, and copy the outputs back, which waits for them."""
        try:
            with self._inference_mode():
                for tensor, host in zip(self._tensors, self._hosts):
                    tensor.copy_(host)
                self.last = tuple(t.cpu() for t in _flat(self._module(*self._tensors)))
        except Exception as error:
            raise _cannot_run(error) from error

    def run_resident(self) -> None:
        """Infer from the inputs that are there, and wait for the end."""
        with self._inference_mode():
            self._module(*self._tensors)
        self._synchronize()


def _program(archive: bytes) -> Any:
    import torch

    if any(name.startswith("quantized_decomposed.") for name in operators_of(archive)):
        # Registers those operators.
        import torch.ao.quantization.fx._decomposed

    logged = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(io.BytesIO(archive))
    finally:
        logging.disable(logged)


def _specs(program: Any) -> Tuple[List[TensorSpec], List[TensorSpec]]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    return (
        [_spec(str(name), values.get(name), "input") for name in signature.user_inputs],
        [_spec(str(name), values.get(name), "output") for name in signature.user_outputs],
    )


def _spec(name: str, value: Any, role: str) -> TensorSpec:
    import torch

    if not isinstance(value, torch.Tensor) or value.dtype in (torch.bfloat16,):
        raise ModelFailedError(f"its {role} '{name}' is no array of numbers that numpy knows")
    shape: List[Optional[int]] = [size if isinstance(size, int) else None for size in value.shape]
    return TensorSpec(name, str(value.dtype).replace("torch.", ""), shape)


def _flat(found: Any) -> Tuple[Any, ...]:
    """The tensors of an answer: torch gives one bare, several in a tuple, a list or a dict."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, (tuple, list)):
        return tuple(tensor for part in found for tensor in _flat(part))
    return (found,)


def _cannot_run(error: Exception) -> ModelFailedError:
    text = f"{type(error).__name__}: {error}"
    if "CxxCompiler" in text or "compiler found" in text:
        return ModelFailedError(
            "torch.compile needs a C++ compiler (g++ or clang++) on the device, and found none: "
            "install one, or set session_config mode: eager"
        )
    return ModelFailedError(f"PyTorch cannot run the model: {_plain(error)}")


def _plain(error: Exception) -> str:
    """The first paragraph of torch's message."""
    text = str(error).strip().partition("\n\n")[0]
    return one_line(text or type(error).__name__, 300)
