"""What a network can learn from: labels, or another network's answers."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Batch:
    """What a network was shown in one update.

    `inputs`: one tensor [B, ...] for each input of the module, augmented already; `chosen`: which
    training examples these are, int64 [B]; `augmented`: whether the inputs differ from theirs.
    """

    inputs: tuple[torch.Tensor, ...]
    chosen: torch.Tensor
    augmented: bool = False


# How many examples a teacher is asked at a time.
PIECE = 256

# Given the answers [B, C] and the batch they answer: the loss to minimise, a scalar.
Loss = Callable[["torch.Tensor", Batch], "torch.Tensor"]
# Given a batch: a teacher's logits [B, C] for it.
Teacher = Callable[[Batch], "torch.Tensor"]


def cross_entropy(
    labels: torch.Tensor, *, probabilities: bool = False, smoothing: float = 0.0
) -> Loss:
    """The loss against the training labels [N]; see `as_logits` for `probabilities`."""
    from torch.nn import functional as F

    def loss(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        targets = labels.to(answer.device)[batch.chosen]
        return F.cross_entropy(as_logits(answer, probabilities), targets, label_smoothing=smoothing)

    return loss


def distillation(
    teacher: Teacher,
    labels: torch.Tensor,
    *,
    temperature: float,
    alpha: float,
    probabilities: bool = False,
    smoothing: float = 0.0,
) -> Loss:
    """The loss (1 − α)·CE(labels) + α·T²·KL(teacher_T ‖ student_T), on logits [N, C].

    The KL divergence is in nats, the teacher first, averaged over the batch; `smoothing` of each
    label is given to all classes alike. Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in
    a Neural Network", 2015.
    """
    import torch
    from torch.nn import functional as F

    def loss(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        logits = as_logits(answer, probabilities)
        soft = F.kl_div(
            F.log_softmax(logits / temperature, dim=1),
            F.log_softmax(teacher(batch) / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        targets = labels.to(logits.device)[batch.chosen]
        hard = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        return torch.add((1 - alpha) * hard, soft, alpha=alpha * temperature**2)

    return loss


def network_teacher(
    module: nn.Module, inputs: torch.Tensor, *, probabilities: bool = False
) -> Teacher:
    """A trained network as a teacher: its logits for the batch as the student sees it.

    `inputs` are the training examples [N, ...]: where nothing is augmented, the teacher is asked
    once for each of them. It answers in float32 on whatever device the student trains.
    """
    import torch

    # A copy: where the student trains on a GPU, its teacher goes there too.
    network = deepcopy(module).eval()
    remembered: list[torch.Tensor] = []

    def ask(*parts: torch.Tensor) -> torch.Tensor:
        # Rounded to bfloat16, large logits would differ by more than what there is to learn.
        with torch.no_grad(), torch.autocast(parts[0].device.type, enabled=False):
            return as_logits(network(*parts), probabilities)

    def teach(batch: Batch) -> torch.Tensor:
        device = batch.inputs[0].device
        network.to(device)
        if batch.augmented:
            return ask(*batch.inputs)
        if not remembered:
            parts = torch.split(inputs, PIECE)
            remembered.append(torch.cat([ask(part.to(device)) for part in parts]))
        return remembered[0][batch.chosen]

    return teach


def as_logits(answer: torch.Tensor, probabilities: bool) -> torch.Tensor:
    """A model's answer as logits: the logarithm, where the model itself ends in a softmax.

    A loss that takes the softmax of a softmax learns, but badly, and nobody is told. Answers in
    half precision become float32, in which a temperature divides them without rounding.
    """
    import torch

    if answer.dtype in (torch.float16, torch.bfloat16):
        answer = answer.float()
    return answer.clamp_min(1e-12).log() if probabilities else answer
