"""Losses that compare the answers of student and teacher."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgebench.training.losses import Batch, Loss, Teacher, as_logits


def soft_cross_entropy(
    teacher: Teacher,
    labels: torch.Tensor,
    *,
    temperature: float,
    alpha: float,
    probabilities: bool = False,
    smoothing: float = 0.0,
) -> Loss:
    """The loss (1 − α)·H(labels, student) + α·H(teacher_T, student_T), without a factor T².

    H is the cross-entropy in nats, averaged over the batch; both answers [B, C] are softened by T,
    and `smoothing` of each label is given to all classes alike.
    It differs from the KL divergence, the teacher first, by the entropy of the teacher's answers,
    which has no gradient. Source: "Knowledge Distillation: the Functional Perspective".
    """

    def loss(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        logits = as_logits(answer, probabilities)
        soft = F.cross_entropy(logits / temperature, (teacher(batch) / temperature).softmax(1))
        targets = labels.to(logits.device)[batch.chosen]
        hard = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        return torch.add((1 - alpha) * hard, soft, alpha=alpha)

    return loss


class DecoupledLoss(nn.Module):
    """The loss CE(labels) + w·T²·(α·TCKD + β·NCKD), averaged over the batch.

    Both are KL divergences in nats, the teacher first, of answers softened by T: TCKD of the target
    class against all others, NCKD of the other classes among themselves. KL(teacher_T ‖ student_T)
    is TCKD + (1 − p)·NCKD, with p the teacher's probability of the target. w rises linearly from
    1/`warmup_epochs` in the first epoch to 1; `smoothing` of each label is given to all classes
    alike. Source: Zhao et al., "Decoupled Knowledge
    Distillation", 2022.
    """

    labels: torch.Tensor
    done: torch.Tensor

    def __init__(
        self,
        teacher: Teacher,
        labels: torch.Tensor,
        *,
        temperature: float,
        alpha: float,
        beta: float,
        warmup_epochs: int = 0,
        probabilities: bool = False,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.temperature, self.alpha, self.beta = temperature, alpha, beta
        self.warmup_epochs = warmup_epochs
        self.probabilities = probabilities
        self.smoothing = smoothing
        self.register_buffer("labels", labels, persistent=False)
        # A buffer: a training that was killed goes on with the weight it had.
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def epoch_done(self, epochs: int) -> None:
        """So many epochs are behind us."""
        self.done.fill_(epochs)

    def forward(self, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of the answers [B, C] to a batch."""
        logits = as_logits(answer, self.probabilities)
        target = self.labels.to(logits.device)[batch.chosen]
        target_part, other_part = decoupled(
            logits / self.temperature, self.teacher(batch) / self.temperature, target
        )
        parts = self.alpha * target_part + self.beta * other_part
        weight = self.temperature**2 * self._rise()
        hard = F.cross_entropy(logits, target, label_smoothing=self.smoothing)
        return hard + weight * parts.mean()

    def _rise(self) -> torch.Tensor | float:
        if not self.warmup_epochs:
            return 1.0
        return ((self.done + 1) / self.warmup_epochs).clamp(max=1.0)


def decoupled(
    student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """TCKD and NCKD [B] of logits [B, C] that are softened already, the teacher first, in nats."""
    others = torch.arange(student.shape[1] - 1, device=student.device).expand(len(student), -1)
    others = others + (others >= target.unsqueeze(1)).long()

    def parts(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rest = logits.gather(1, others)
        # Two classes: the target, and all others together.
        pair = torch.stack([logits.gather(1, target[:, None])[:, 0], rest.logsumexp(1)], 1)
        return pair.log_softmax(1), rest.log_softmax(1)

    kl = [
        F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
        for ours, theirs in zip(parts(student), parts(teacher), strict=True)
    ]
    return kl[0], kl[1]
