"""Step sizes of a grid that are trained with the network.

Source: Esser et al., "Learned Step Size Quantization", ICLR 2020 (LSQ): the gradient of the step,
its factor 1/√(N·Qp) and its first value 2·mean|v|/√Qp. As in Jain et al., "Trained Quantization
Thresholds", MLSys 2020, the logarithm is what is trained: a step stays positive, and an optimizer
that divides gradients by their size (Adam) changes every step by the same share.
"""

from __future__ import annotations

import torch
from torch import nn

# A narrower step would divide by zero.
SMALLEST_SCALE = 1e-8


class LearnedStep(nn.Module):
    """One step size a tensor (shape []) or a channel (shape [channels]).

    The parameter is log(step / first step). Its gradient is scaled so that plain gradient descent
    changes the step as it does in LSQ, to first order; weight decay pulls to the first step.
    """

    first: torch.Tensor
    levels: torch.Tensor

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.log_ratio = nn.Parameter(torch.zeros(shape))
        self.register_buffer("first", torch.ones(shape))
        self.register_buffer("levels", torch.ones(()))

    def start(self, mean: torch.Tensor, widest: torch.Tensor, levels: torch.Tensor) -> None:
        """Set the first step.

        `mean`: the mean size of the values; `widest`: the step at which the largest value is the
        last integer, beyond which integers would lie idle (at 8 bits LSQ's first step does);
        `levels`: how many integers lie above zero, LSQ's Qp.
        """
        with torch.no_grad():
            self.levels.copy_(levels)
            first = torch.minimum(2 * mean / self.levels.sqrt(), widest)
            self.first.copy_(first.clamp(min=SMALLEST_SCALE))
            self.log_ratio.zero_()

    def forward(self, features: int = 1) -> torch.Tensor:
        """The step; `features`: how many values of an example share it, LSQ's N."""
        # Exponentiated as a copy, so that the hook sees this use of the parameter alone.
        ratio = self.log_ratio.clone()
        step = self.first * ratio.exp()
        if ratio.requires_grad:
            # The chain rule multiplies by the step. Divided by its square, the change of the
            # logarithm is the paper's change of the step, over the step.
            factor = (features * self.levels).rsqrt() / step.detach() ** 2
            ratio.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
        return step


def round_to_steps(
    x: torch.Tensor, step: torch.Tensor, zero: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """`x` as integers of [low, high], less `zero`, times `step`: a scalar, or one a channel.

    The gradient to `x` goes straight through inside the range; the step's is LSQ's.
    """
    # torch's own kernels for what torch.ao calls learnable fake quantization.
    if step.dim():
        return torch._fake_quantize_learnable_per_channel_affine(
            x, step, zero.to(step.dtype), 0, low, high
        )
    return torch._fake_quantize_learnable_per_tensor_affine(
        x, step.reshape(1), zero.to(step.dtype).reshape(1), low, high
    )
