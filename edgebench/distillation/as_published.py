"""Distillation exactly as "Neural Network Compression: the Functional Perspective" ran it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from edgebench.training.losses import Batch, Loss, Teacher, as_logits

TEMPERATURE = 3.0
# The middle one of the paper's 0.1, 0.5 and 0.9.
USUAL_ALPHA = 0.5


def published_loss(
    teacher: Teacher, labels: torch.Tensor, *, alpha: float, probabilities: bool = False
) -> Loss:
    """The loss α·CE(labels) + (1 − α)·T²·KL(softmax(p_t/T) ‖ softmax(p_s/T)) with T = 3.

    Two things are wrong with it. p_t and p_s are probabilities already, so that the softmax is
    taken twice: the KL term can be no more than 0.114 for 10 classes, and its gradient is next to
    nothing. And α weighs the labels, where the paper's text has it weigh the teacher. The paper's
    student also has another optimizer (Adamax) than its base (Adam). It is kept to reproduce the
    paper's numbers; `distillation` is the loss to use. The KL divergence is in nats, the teacher
    first, averaged over the batch. Source: papers 000 and 001, as their notebooks have it.
    """

    def loss(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        logits = as_logits(answer, probabilities)
        taught = F.log_softmax(teacher(batch).softmax(1) / TEMPERATURE, dim=1)
        learnt = F.log_softmax(logits.softmax(1) / TEMPERATURE, dim=1)
        soft = F.kl_div(learnt, taught, reduction="batchmean", log_target=True)
        hard = F.cross_entropy(logits, labels.to(logits.device)[batch.chosen])
        return torch.add(alpha * hard, soft, alpha=(1 - alpha) * TEMPERATURE**2)

    return loss
