"""Contrastive representation distillation, with a memory bank."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgebench.distillation.features import Feature
from edgebench.errors import BuildError
from edgebench.training.losses import Batch

# Keeps the logarithms finite where a score underflows, as in the authors' program.
EPSILON = 1e-7


class ContrastiveLoss(nn.Module):
    """An example's features by the student belong to its features by the teacher, and to no other.

    Both are embedded by a dense layer of their own and scaled to length 1; each is held against the
    other network's remembered embedding of the same example and of K examples of other classes,
    drawn anew with replacement, by noise-contrastive estimation (`contrast`). Both directions are
    added. The remembered embeddings follow with `momentum`. Source: Tian, Krishnan, Isola,
    "Contrastive Representation Distillation", 2020, as their program computes it.

    `labels`: int64 [N] of all training examples. `negatives` is limited to the examples of other
    classes there are; `self.negatives` says to how many. Banks and scales are buffers, so that a
    training that was killed goes on with them.
    """

    bank_student: torch.Tensor
    bank_teacher: torch.Tensor
    scale_student: torch.Tensor
    scale_teacher: torch.Tensor
    by_class: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor
    labels: torch.Tensor

    def __init__(
        self,
        student: Feature,
        teacher: Feature,
        labels: torch.Tensor,
        *,
        negatives: int,
        dimensions: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__()
        counts = torch.bincount(labels)
        others = len(labels) - int(counts.max())
        if others < 1:
            raise BuildError("crd contrasts classes: the training examples are of one class alone")
        self.negatives = min(negatives, others)
        self.temperature, self.momentum = temperature, momentum
        self.embed_student = nn.Linear(_width(student), dimensions)
        self.embed_teacher = nn.Linear(_width(teacher), dimensions)
        largest = (dimensions / 3) ** -0.5
        for name in ("student", "teacher"):
            bank = (2 * torch.rand(len(labels), dimensions) - 1) * largest
            self.register_buffer(f"bank_{name}", bank)
            # Below zero: not known until the first batch.
            self.register_buffer(f"scale_{name}", torch.tensor(-1.0))
        self.register_buffer("by_class", torch.argsort(labels, stable=True), persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("labels", labels, persistent=False)

    def forward(
        self, student: list[torch.Tensor], teacher: list[torch.Tensor], batch: Batch
    ) -> torch.Tensor:
        """The loss of one feature [B, ...] each; the bank remembers the embeddings afterwards."""
        ours = F.normalize(self.embed_student(pooled(student[0])))
        theirs = F.normalize(self.embed_teacher(pooled(teacher[0])))
        chosen = batch.chosen
        # The example itself comes first.
        held = torch.cat([chosen.unsqueeze(1), self.draw(chosen)], 1)
        scores_student = self._scores(ours, self.bank_teacher, held)
        scores_teacher = self._scores(theirs, self.bank_student, held)
        examples = len(self.bank_student)
        with torch.no_grad():
            for name, scores in (("student", scores_student), ("teacher", scores_teacher)):
                scale = getattr(self, f"scale_{name}")
                scale.copy_(torch.where(scale < 0, scores.mean() * examples, scale))
        value = contrast(scores_student / self.scale_student, examples) + contrast(
            scores_teacher / self.scale_teacher, examples
        )
        # In new tensors: the products above still need the old ones for their gradients.
        self.bank_student = self._remember(self.bank_student, chosen, ours)
        self.bank_teacher = self._remember(self.bank_teacher, chosen, theirs)
        return value

    def draw(self, chosen: torch.Tensor) -> torch.Tensor:
        """Examples of other classes than each of `chosen` [B]: their indices [B, K]."""
        label = self.labels[chosen].unsqueeze(1)
        own, start = self.counts[label], self.starts[label]
        # On the processor whatever the device: the draws are then the same, and checkpointed.
        share = torch.rand(len(chosen), self.negatives).to(chosen.device)
        others = len(self.labels) - own
        position = torch.minimum((share * others).long(), others - 1)
        # The class itself is skipped.
        return self.by_class[position + own * (position >= start).long()]

    def _scores(
        self, embedded: torch.Tensor, bank: torch.Tensor, held: torch.Tensor
    ) -> torch.Tensor:
        """exp(cosine/T) of each embedding with those of the bank it is held against [B, 1 + K]."""
        # One product with the whole bank is far less to move than a copy of K rows an example.
        return ((embedded @ bank.t()).gather(1, held) / self.temperature).exp()

    def _remember(
        self, bank: torch.Tensor, chosen: torch.Tensor, embedded: torch.Tensor
    ) -> torch.Tensor:
        mixed = torch.lerp(embedded.detach(), bank[chosen], self.momentum)
        return bank.index_copy(0, chosen, F.normalize(mixed))


def contrast(scores: torch.Tensor, examples: int) -> torch.Tensor:
    """The loss of noise-contrastive estimation of scores [B, 1 + K], the own example's first.

    −log h(own) − Σ log(1 − h(other)), averaged over the batch, with h(s) = s/(s + K/N): whether a
    score comes from the data rather than from K draws out of N examples.
    """
    negatives = scores.shape[1] - 1
    noise = negatives / examples
    own, others = scores[:, 0], scores[:, 1:]
    found = torch.log(own / (own + noise + EPSILON))
    refused = torch.log(noise / (others + noise + EPSILON)).sum(1)
    return -(found + refused).mean()


def pooled(features: torch.Tensor) -> torch.Tensor:
    """Features as vectors [B, C]: maps [B, C, H, W] and tokens [B, T, C] averaged over places."""
    if features.dim() == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.dim() == 3 else features


def _width(feature: Feature) -> int:
    shape = feature.shape
    if len(shape) not in {1, 2, 3}:
        raise BuildError(
            f"crd needs a vector, tokens or feature maps; {feature.place} has the shape "
            f"{list(shape)}",
            hint="name other layers with crd.layers",
        )
    return shape[0] if len(shape) == 3 else shape[-1]
