"""Networks whose parameters are rounded to half precision in every forward pass.

The float32 values stay beside and are what is trained; the gradient goes straight through the
rounding. For export the parameters become tensors of the half format that are cast to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

HALF_FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16}


class _Rounded(torch.autograd.Function):
    """To the nearest number of the format, as float32; beyond its range, to its largest."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return _in_half(x, dtype).to(x.dtype)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def _in_half(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    limit = torch.finfo(dtype).max
    return x.clamp(-limit, limit).to(dtype)


def _round(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return cast("torch.Tensor", _Rounded.apply(x, dtype))  # type: ignore[no-untyped-call]


class _HalfParameter(nn.Module):
    """A parametrization: what the network computes with is the parameter, rounded."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The parameter in float32: rounded to the format, or stored in it already."""
        return x.float() if x.dtype == self.dtype else _round(x, self.dtype)


def round_to_half(
    module: nn.Module, name: str, *, activations: bool, exclude: Sequence[str] = ()
) -> int:
    """Round the parameters of `module` to a format of HALF_FORMATS from now on, in place.

    `activations`: while training, the answers of its layers are rounded too. `exclude`: names of
    layers that stay as they are. Returns how many numbers are rounded.
    """
    dtype = HALF_FORMATS[name]
    # Listed first: a parametrization is a module of its own.
    parts = [(path, part, list(part.children())) for path, part in module.named_modules()]
    count = 0
    for path, part, children in parts:
        if path in exclude:
            continue
        for parameter, tensor in list(part.named_parameters(recurse=False)):
            if tensor.dtype == torch.float32:
                parametrize.register_parametrization(part, parameter, _HalfParameter(dtype))
                count += tensor.numel()
        if activations and not children:
            part.register_forward_hook(_rounding_hook(dtype))
    return count


def _rounding_hook(dtype: torch.dtype) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(layer: nn.Module, _: Any, answer: Any) -> Any:
        floats = isinstance(answer, torch.Tensor) and answer.dtype == torch.float32
        # The exported file computes in float32, and so does evaluation.
        return _round(answer, dtype) if layer.training and floats else None

    return hook


def half_format(module: nn.Module) -> str | None:
    """The format of HALF_FORMATS that parameters of `module` are rounded to; None: to none."""
    names = {dtype: name for name, dtype in HALF_FORMATS.items()}
    for part in module.modules():
        if isinstance(part, _HalfParameter):
            return names[part.dtype]
    return None


def store_as_half(module: nn.Module) -> None:
    """Keep the rounded parameters as tensors of the half format from now on, for export."""
    for part in module.modules():
        if isinstance(part, parametrize.ParametrizationList):
            rounding = part[0]
            if isinstance(rounding, _HalfParameter):
                stored = _in_half(part.original.detach(), rounding.dtype)
                part.original = nn.Parameter(stored, requires_grad=False)
