"""How a module of any inputs is called, and what its answers are called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from edgebench.errors import DataError, ModelError, nearest, one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

# Of a module: its only input, or one tensor for each by its place.
Inputs: TypeAlias = "torch.Tensor | Sequence[torch.Tensor]"

# What the answer of a module is called that gives one tensor, and one of several.
OUTPUT = "output"
BATCH = 64


def as_inputs(given: Inputs) -> tuple[torch.Tensor, ...]:
    """The inputs of a module as it is called with them: one tensor, or several by their place."""
    import torch

    return (given,) if isinstance(given, torch.Tensor) else tuple(given)


def argument_order(
    module: nn.Module, names: Sequence[str], *, where: str
) -> tuple[str, ...] | None:
    """`names` in the order `forward` takes them, where its arguments are called so.

    None where it has none of the names: then the inputs go by their place.

    Raises
    ------
    DataError
        Some names are its arguments and others are not, one it needs is not there, or it takes
        another number of inputs.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    placed = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    takes = [p.name for p in placed]
    listed = ", ".join(takes) or "none"
    if not set(names) & set(takes):
        needed = sum(p.default is p.empty for p in placed)
        anything = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if len(names) < needed or (len(names) > len(placed) and not anything):
            raise DataError(
                f"holds {len(names)} inputs ({', '.join(names)}), and the model's forward takes "
                f"{len(placed)} ({listed})",
                where=where,
                hint="name the arrays as forward's arguments",
            )
        return None
    for name in names:
        if name not in takes:
            near = nearest(name, takes)
            raise DataError(
                f"the model's forward has no argument '{name}'",
                where=where,
                hint=f"did you mean '{near}'?" if near else f"it takes {listed}",
            )
    order = tuple(name for name in takes if name in names)
    # Inputs are passed by their place, so that none may be left out before the last.
    skipped = next((p for p in takes[: takes.index(order[-1])] if p not in names), None)
    lacking = [p.name for p in placed if p.default is p.empty and p.name not in names]
    if skipped is not None or lacking:
        raise DataError(
            f"there is no array '{lacking[0] if lacking else skipped}', which forward takes",
            where=where,
            hint=f"it takes {listed}",
        )
    return order


def named_answers(answer: Any, *, where: str) -> dict[str, torch.Tensor]:
    """The tensors of an answer by name: `output`, `output-0`, … of a tuple, or a dict's keys.

    Raises ModelError for an answer of another kind.
    """
    import torch

    if isinstance(answer, torch.Tensor):
        return {OUTPUT: answer}
    if isinstance(answer, Mapping):
        found = {str(key): value for key, value in answer.items()}
    elif isinstance(answer, (tuple, list)):
        found = {f"{OUTPUT}-{place}": value for place, value in enumerate(answer)}
    else:
        raise ModelError(
            f"the model returns a {type(answer).__name__}, not a tensor, nor a tuple, list or dict "
            "of tensors",
            where=where,
        )
    wrong = next((n for n, value in found.items() if not isinstance(value, torch.Tensor)), None)
    if wrong is not None or not found:
        what = (
            f"its answer '{wrong}' is a {type(found[wrong]).__name__}" if wrong else "it is empty"
        )
        raise ModelError(
            f"the model's {type(answer).__name__} has to hold tensors: {what}", where=where
        )
    return found


def answers(
    module: nn.Module,
    inputs: Inputs,
    *,
    where: str = "the model",
) -> dict[str, torch.Tensor]:
    """All answers of a module [N, ...] by name, in evaluation mode, without gradients."""
    import torch

    module.eval()
    parts: list[dict[str, torch.Tensor]] = []
    with torch.no_grad():
        for batch in zip(*(torch.split(one, BATCH) for one in as_inputs(inputs)), strict=True):
            parts.append(named_answers(module(*batch), where=where))
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def check_module(
    module: nn.Module, inputs: Sequence[torch.Tensor], *, where: str
) -> dict[str, tuple[int, ...]]:
    """The shape of one example of each answer of `module` to real `inputs`, [N, ...] each.

    Raises
    ------
    ModelError
        The module fails on them, or an answer does not count the examples along its first axis, or
        is not finite.
    """
    import torch

    count = len(inputs[0])
    try:
        found = answers(module, inputs, where=where)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        shapes = ", ".join(f"{one.dtype} {list(one.shape)}" for one in inputs).replace("torch.", "")
        raise ModelError(
            f"the model fails on inputs {shapes}: {type(error).__name__}: "
            f"{one_line(str(error), 200)}",
            where=where,
            hint="are these the inputs it was made for?",
        ) from error
    for name, answer in found.items():
        if not answer.dim() or len(answer) != count:
            raise ModelError(
                f"the model's answer '{name}' has shape {list(answer.shape)} for {count} examples; "
                "its first axis has to count them",
                where=where,
            )
        if not torch.isfinite(answer).all():
            raise ModelError(
                f"the model's answer '{name}' is not finite (NaN or infinity)", where=where
            )
    return {name: tuple(answer.shape[1:]) for name, answer in found.items()}


def float_type(module: nn.Module) -> str:
    """The type of a module's floating-point parameters; float32 without any that numpy knows."""
    found = next((str(p.dtype) for p in module.parameters() if p.is_floating_point()), "")
    name = found.removeprefix("torch.")
    return name if name in {"float16", "float64"} else "float32"
