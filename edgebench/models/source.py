"""Where a model comes from: a registered name, the user's `package.module:factory`, or a file.onnx.

Weights are read as data: safetensors, or a state dict that `torch.load` admits with
`weights_only`. A checkpoint that would run code is refused.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from pickletools import genops
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgebench.errors import EdgebenchError, ModelError, one_line
from edgebench.hashing import file_digest, source_digest
from edgebench.models.base import MODELS, Factory, call_factory
from edgebench.models.imports import local_sources

if TYPE_CHECKING:
    import torch
    from torch import nn

NO_CLASSIFIER = "for a model that is no classifier, give its inputs alone, as an .npz file"


@dataclass(frozen=True)
class ModelSource:
    """A model as the user named it, not loaded yet.

    `factory` is None for an ONNX file. `identity` is all that the network itself depends on.
    """

    spec: str
    options: dict[str, Any] = field(default_factory=dict)
    factory: Factory | None = None
    onnx_file: Path | None = None
    weights: Path | None = None
    identity: dict[str, Any] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        """Whether networks of this architecture can be made and trained."""
        return self.factory is not None

    def build(self, input_shape: tuple[int, ...], classes: int, **extra: Any) -> nn.Module:
        """A new module of this architecture with the initial weights of torch's current seed."""
        if self.factory is None:
            raise ModelError("an ONNX file is no factory of networks", where=self.spec)
        return call_factory(
            self.factory,
            input_shape=input_shape,
            classes=classes,
            options={**self.options, **extra},
            where=f"model '{self.spec}'",
        )

    def build_for(self, shapes: Mapping[str, tuple[int, ...]], **extra: Any) -> nn.Module:
        """A new module for inputs of these names and shapes, whose answers are no classes.

        A factory that takes `input_shape` gets the only input's; `classes` is the user's to set.
        """
        options = {**self.options, **extra}
        only = next(iter(shapes.values())) if len(shapes) == 1 else None
        try:
            parameters = inspect.signature(self.factory).parameters if self.factory else {}
        except (ValueError, TypeError):
            # `call_factory` says what is wrong.
            parameters = {}
        for name, known in (("input_shape", only), ("classes", None)):
            if name not in parameters or name in options or known is not None:
                continue
            if parameters[name].default is inspect.Parameter.empty:
                raise ModelError(
                    f"the factory takes '{name}', which inputs without labels do not tell",
                    where=f"model '{self.spec}'",
                    hint=f"set model_options.{name}",
                )
            options[name] = parameters[name].default
        return ModelSource(self.spec, options, self.factory).build(only or (), 0)


def find_model(spec: str, *, weights: str | None, options: dict[str, Any]) -> ModelSource:
    """The source behind a model's name; raises ModelError or UnknownNameError in one line."""
    if spec.endswith(".onnx"):
        if options:
            raise ModelError(
                f"an ONNX file takes no options, such as '{next(iter(options))}'",
                where=f"model '{spec}'",
                hint="leave model_options out",
            )
        return _onnx_source(spec, weights)
    weights_file = None
    identity: dict[str, Any] = {"model": spec, "options": options}
    if weights is not None:
        weights_file = Path(weights)
        identity["weights"] = file_sha256(weights_file, "weights")
    if ":" in spec:
        module, factory = _import_factory(spec)
        identity["source"] = _source_of(module, factory)
    else:
        factory = MODELS.get(spec)
    return ModelSource(spec, options, factory, None, weights_file, identity)


def file_sha256(path: Path, noun: str) -> str:
    """The SHA-256 of a file, or a ModelError that names it."""
    try:
        return file_digest(path)
    except FileNotFoundError:
        raise ModelError(f"there is no {noun} file at this path", where=str(path)) from None
    except OSError as error:
        raise ModelError(
            f"the {noun} file cannot be read: {error.strerror}", where=str(path)
        ) from error


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the tensors of a safetensors file or a state dict into `module`."""
    state = _read_state(path)
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        detail = one_line(str(error).split(":", 1)[-1], 200)
        raise ModelError(
            f"the weights do not fit the model: {detail}",
            where=str(path),
            hint="are the classes, the input size and the model options the same?",
        ) from None
    if missing or unexpected:
        parts = []
        if missing:
            parts.append(f"lack '{missing[0]}'" + _more(missing))
        if unexpected:
            parts.append(f"have '{unexpected[0]}', which the model has not" + _more(unexpected))
        raise ModelError(
            f"the weights {' and '.join(parts)}",
            where=str(path),
            hint="are they of this architecture?",
        )


def check_classifier(
    module: nn.Module, input_shape: tuple[int, ...], classes: int, *, where: str
) -> None:
    """Raise ModelError unless `module` turns [N, *input_shape] into finite [N, classes]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    example = torch.rand((2, *input_shape), generator=generator)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            answer = module(example)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"the model fails on an input of shape {list(example.shape)}: "
            f"{type(error).__name__}: {one_line(str(error), 200)}",
            where=where,
            hint="does the data have the size the model was made for?",
        ) from error
    finally:
        module.train(was_training)
    _check_answer_shape(answer, 2, classes, where=where)
    if not torch.isfinite(answer).all():
        raise ModelError("the model's answers are not finite (NaN or infinity)", where=where)


def _check_answer_shape(answer: Any, n: int, classes: int, *, where: str) -> None:
    """Raise ModelError unless `answer` has the shape [n, classes]."""
    import torch

    if not isinstance(answer, torch.Tensor):
        raise ModelError(
            f"the model returns a {type(answer).__name__}, not one tensor [N, classes]",
            where=where,
            hint=NO_CLASSIFIER,
        )
    if not answer.is_floating_point():
        raise ModelError(f"the model answers in {answer.dtype}, not in floats", where=where)
    shape = answer.shape
    if len(shape) != 2 or shape[0] != n:
        raise ModelError(
            f"the model's output has shape {list(shape)} for {n} examples; "
            f"a classifier gives [N, classes]",
            where=where,
            hint=NO_CLASSIFIER,
        )
    if shape[1] != classes:
        raise ModelError(
            f"the model answers {shape[1]} classes, the data has {classes}",
            where=where,
            hint="name data with the model's classes, or give the model the data's",
        )


def _onnx_source(spec: str, weights: str | None) -> ModelSource:
    path = Path(spec)
    if weights is not None:
        raise ModelError(
            "an ONNX file brings its own weights", where=f"--weights {weights}", hint="leave it out"
        )
    return ModelSource(spec, onnx_file=path, identity={"onnx": file_sha256(path, "ONNX")})


def _source_of(module: ModuleType, factory: Factory) -> str | None:
    """The hash of the code behind a factory, or None where none of it is Python source."""
    files = set()
    if module.__file__ is not None:
        files.update(local_sources(Path(module.__file__), module.__name__))
    # A factory may come from elsewhere; a partial or an object that is called has no file itself.
    with suppress(TypeError):
        source = inspect.getsourcefile(inspect.unwrap(factory))
        files.update({Path(source).resolve()} if source else ())
    try:
        return source_digest(files) if files else None
    except OSError as error:
        raise ModelError(
            f"the source file cannot be read: {error.strerror}", where=str(error.filename)
        ) from error


def _import_factory(spec: str) -> tuple[ModuleType, Factory]:
    module_name, _, attribute = spec.partition(":")
    # A console script does not have the working folder on its path; `python -m` does.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"no module named '{error.name}'",
            where=f"model '{spec}'",
            hint="run in the folder that holds it, or install it",
        ) from None
    except EdgebenchError:
        raise
    except SystemExit:
        raise ModelError(
            f"importing '{module_name}' ends the program",
            where=f"model '{spec}'",
            hint="put what a script does under: if __name__ == '__main__'",
        ) from None
    except Exception as error:
        raise ModelError(
            f"importing '{module_name}' failed: {type(error).__name__}: {one_line(str(error))}",
            where=f"model '{spec}'",
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise ModelError(f"'{module_name}' has no '{attribute}'", where=f"model '{spec}'")
    if not callable(factory):
        raise ModelError(f"'{attribute}' is not callable", where=f"model '{spec}'")
    return module, factory


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    import pickle
    import warnings

    import torch

    if path.is_file() and not path.stat().st_size:
        raise ModelError("the weights file is empty", where=str(path))
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(
                f"the safetensors file cannot be read: {one_line(str(error), 120)}", where=str(path)
            ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch names what the pickle would call; of other bytes it only says what it cannot read.
        calls = "unsupported global" in str(error).lower() or _calls(path)
        raise ModelError(
            "the checkpoint is a pickle that would run code, and is refused"
            if calls
            else "the checkpoint is damaged, or a pickle that may run code, and is refused",
            where=str(path),
            hint="save only the state dict: torch.save(model.state_dict(), FILE), "
            "or use safetensors",
        ) from None
    except Exception as error:
        raise ModelError(
            f"the checkpoint cannot be read: {type(error).__name__}: {one_line(str(error), 120)}",
            where=str(path),
            hint="is it complete, and a state dict?",
        ) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise ModelError(
            "the checkpoint holds no state dict (a mapping of names to tensors)", where=str(path)
        )
    return state


def _calls(path: Path) -> bool:
    """Whether a bare pickle holds instructions that call something; nothing is executed."""
    try:
        with path.open("rb") as stream:
            return any(op.name in {"REDUCE", "INST", "OBJ"} for op, _, _ in genops(stream))
    except (OSError, ValueError):
        return False


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
