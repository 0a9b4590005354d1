"""What a network can learn from: labels, or another network's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Given the answers [B, C] and which training examples [B] they belong to: the loss to minimise.
Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def cross_entropy(labels: torch.Tensor, *, probabilities: bool = False) -> Loss:
    """The loss against the training labels [N]; see `as_logits` for `probabilities`."""
    from torch.nn import functional as F

    return lambda answer, chosen: F.cross_entropy(as_logits(answer, probabilities), labels[chosen])


def distillation(
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float,
    alpha: float,
    probabilities: bool = False,
) -> Loss:
    """The loss (1 − α)·CE(labels) + α·T²·KL(teacher_T ‖ student_T), on logits [N, C].

    The KL divergence is in nats, the teacher first, averaged over the batch. Source: Hinton,
    Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    import torch
    from torch.nn import functional as F

    def loss(answer: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        logits = as_logits(answer, probabilities)
        soft = F.kl_div(
            F.log_softmax(logits / temperature, dim=1),
            F.log_softmax(teacher_logits[chosen] / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        hard = F.cross_entropy(logits, labels[chosen])
        return torch.add((1 - alpha) * hard, soft, alpha=alpha * temperature**2)

    return loss


def as_logits(answer: torch.Tensor, probabilities: bool) -> torch.Tensor:
    """A model's answer as logits: the logarithm, where the model itself ends in a softmax.

    A loss that takes the softmax of a softmax learns, but badly, and nobody is told.
    """
    return answer.clamp_min(1e-12).log() if probabilities else answer
