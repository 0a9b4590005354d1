"""The registry of networks, and how a factory is called."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgebench.errors import ModelError, one_line
from edgebench.registry import Registry

if TYPE_CHECKING:
    from torch import nn

Factory = Callable[..., "nn.Module"]

MODELS: Registry[Factory] = Registry("model", "edgebench.models")


def call_factory(
    factory: Factory,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    options: dict[str, Any],
    where: str,
) -> nn.Module:
    """The module a factory makes.

    `input_shape` ([C, H, W]) and `classes` are passed where the factory takes arguments of these
    names; `options` are the user's and must all be taken.
    """
    from torch import nn

    offered = {"input_shape": input_shape, "classes": classes}
    try:
        parameters = inspect.signature(factory).parameters
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"the factory's arguments cannot be told: {one_line(str(error))}",
            where=where,
            hint="write it as a Python function",
        ) from error
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    refused = [name for name in options if name not in parameters and not anything]
    if refused:
        raise ModelError(
            f"the factory takes no '{refused[0]}'",
            where=where,
            hint=f"it takes: {', '.join(parameters) or 'nothing'}",
        )
    arguments = {name: v for name, v in offered.items() if name in parameters} | options
    try:
        module = factory(**arguments)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"the factory failed: {type(error).__name__}: {one_line(str(error))}", where=where
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"the factory returned a {type(module).__name__}, not a torch.nn.Module", where=where
        )
    return module


def scaled(channels: int, width: float) -> int:
    """`channels` × `width`, rounded, at least one; raises ModelError where `width` is no size."""
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < math.inf:
        raise ModelError(f"width must be a number above 0, not {width!r}")
    return max(1, round(channels * width))
