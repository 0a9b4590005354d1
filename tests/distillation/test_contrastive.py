"""Contrastive distillation, against a plain noise-contrastive estimation on a tiny bank."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from edgebench.distillation.contrastive import ContrastiveLoss, contrast, pooled
from edgebench.distillation.features import Feature, Place
from edgebench.errors import BuildError
from edgebench.training.loop import deterministic
from edgebench.training.losses import Batch

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0])
STUDENT = Feature(Place("a"), (5,))
TEACHER = Feature(Place("b"), (7,))


def make(*, negatives: int = 4, momentum: float = 0.5, labels: torch.Tensor = LABELS):
    with deterministic(0):
        return ContrastiveLoss(
            STUDENT,
            TEACHER,
            labels,
            negatives=negatives,
            dimensions=3,
            temperature=0.07,
            momentum=momentum,
        )


def shown(*chosen: int) -> tuple[list[torch.Tensor], list[torch.Tensor], Batch]:
    generator = torch.Generator().manual_seed(7)
    n = len(chosen)
    ours, theirs = (torch.randn(n, width, generator=generator) for width in (5, 7))
    return [ours], [theirs], Batch((torch.zeros(n, 1),), torch.tensor(chosen))


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in row))
    return [v / length for v in row]


def test_it_is_noise_contrastive_estimation_example_by_example(monkeypatch) -> None:
    loss = make()
    drawn = torch.tensor([[1, 2, 2, 4], [0, 7, 3, 1]])
    monkeypatch.setattr(loss, "draw", lambda chosen: drawn)
    students, teachers, batch = shown(0, 5)
    banks = [loss.bank_student.tolist(), loss.bank_teacher.tolist()]
    embedded = [
        [unit(row) for row in layer(features).tolist()]
        for layer, features in [
            (loss.embed_student, students[0]),
            (loss.embed_teacher, teachers[0]),
        ]
    ]
    expected = 0.0
    for side in (0, 1):
        scores = [
            [
                math.exp(sum(a * b for a, b in zip(v, banks[1 - side][i], strict=True)) / 0.07)
                for i in [own, *others]
            ]
            for v, own, others in zip(embedded[side], [0, 5], drawn.tolist(), strict=True)
        ]
        scale = 8 * sum(map(sum, scores)) / 10
        noise = 4 / 8
        for own, *others in scores:
            h = own / scale / (own / scale + noise)
            expected -= math.log(h) / 2
            expected -= sum(math.log(noise / (s / scale + noise)) for s in others) / 2
    value = loss(students, teachers, batch).detach()
    assert float(value) == pytest.approx(expected, rel=1e-4)

    for side, name in enumerate(("student", "teacher")):
        bank = getattr(loss, f"bank_{name}").tolist()
        for row, example in enumerate((0, 5)):
            pairs = zip(banks[side][example], embedded[side][row], strict=True)
            assert bank[example] == pytest.approx(unit([(a + b) / 2 for a, b in pairs]), rel=1e-4)
        assert bank[1] == banks[side][1]


def test_the_contrast_by_hand() -> None:
    # K = 2 of N = 4: the noise is 1/2. h(own) = .8, 1 − h(other) = 1/2 and 1/3.
    scores = torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64)
    expected = -(math.log(0.8) + math.log(0.5) + math.log(1 / 3))
    assert float(contrast(scores, 4)) == pytest.approx(expected, rel=1e-6)


def test_negatives_are_of_other_classes_and_all_of_them_are_drawn() -> None:
    loss = make(negatives=5)
    chosen = torch.arange(8).repeat(200)
    drawn = loss.draw(chosen)
    assert drawn.shape == (1600, 5)
    assert (LABELS[drawn] != LABELS[chosen][:, None]).all()
    for example in range(8):
        found = torch.bincount(drawn[chosen == example].flatten(), minlength=8).double()
        allowed = LABELS.ne(LABELS[example])
        assert (found > 0).equal(allowed)
        # Each as likely as any other: 1,000 draws over five or six examples.
        assert (found[allowed] / found[allowed].mean() - 1).abs().max() < 0.3


def test_no_more_negatives_than_there_are() -> None:
    # Three examples of the largest classes leave five of others.
    assert make(negatives=16384).negatives == 5
    assert make(negatives=3).negatives == 3
    with pytest.raises(BuildError, match="of one class alone"):
        make(labels=torch.zeros(8, dtype=torch.int64))


def test_what_is_remembered_is_in_the_state_and_the_scale_is_set_once() -> None:
    loss = make()
    names = {"bank_student", "bank_teacher", "scale_student", "scale_teacher"}
    assert names < set(loss.state_dict())
    assert float(loss.scale_student) < 0
    with deterministic(1):
        loss(*shown(0, 5))
        first = loss.scale_student.clone()
        loss(*shown(1, 2))
    assert float(first) > 0
    assert torch.equal(loss.scale_student, first)


def test_training_brings_both_embeddings_of_an_example_together() -> None:
    loss = make()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    students, teachers, batch = shown(*range(8))
    with deterministic(0):
        values = []
        for _ in range(150):
            optimizer.zero_grad()
            value = loss(students, teachers, batch)
            value.backward()
            optimizer.step()
            values.append(float(value.detach()))
    assert values[-1] < 0.5 * values[0]
    ours = F.normalize(loss.embed_student(students[0])).detach()
    theirs = F.normalize(loss.embed_teacher(teachers[0])).detach()
    similar = ours @ theirs.t()
    others = LABELS[:, None] != LABELS
    assert float(similar.diag().mean()) > float(similar[others].mean()) + 0.5


def test_momentum_says_how_slowly_the_bank_follows() -> None:
    quick, slow = make(momentum=0.0), make(momentum=0.99)
    moved = []
    for loss in (quick, slow):
        before = F.normalize(loss.bank_student[0], dim=0)
        with deterministic(1):
            loss(*shown(0, 5))
        moved.append(float((loss.bank_student[0] - before).norm()))
    assert moved[1] < 0.1 * moved[0]


def test_maps_and_tokens_are_averaged_over_their_places() -> None:
    assert pooled(torch.ones(2, 3, 4, 4)).shape == (2, 3)
    assert pooled(torch.ones(2, 9, 5)).shape == (2, 5)
    assert pooled(torch.ones(2, 6)).shape == (2, 6)
