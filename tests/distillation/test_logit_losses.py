"""The losses on answers, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from edgebench.distillation.as_published import published_loss
from edgebench.distillation.logit_losses import DecoupledLoss, decoupled, soft_cross_entropy
from edgebench.training.losses import Batch, Teacher, cross_entropy, distillation

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]], dtype=torch.float64)
TEACHER = torch.tensor(
    [[9.0, 9.0, 9.0], [1.0, -1.0, 0.0], [9.0, 0.0, 0.0], [0.0, 2.0, 1.0]], dtype=torch.float64
)
LABELS = torch.tensor([2, 0, 2, 1])
SHOWN = Batch((torch.zeros(2, 1),), torch.tensor([1, 3]))


def says(rows: torch.Tensor) -> Teacher:
    return lambda batch: rows[batch.chosen]


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.5), (4.0, 0.9), (4.0, 1.0)])
def test_the_cross_entropy_form_by_hand(temperature: float, alpha: float) -> None:
    expected = 0.0
    for row, example in zip(STUDENT.tolist(), [1, 3], strict=True):
        p = softmax([v / temperature for v in TEACHER[example].tolist()])
        q = softmax([v / temperature for v in row])
        soft = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        hard = -math.log(softmax(row)[LABELS[example]])
        expected += ((1 - alpha) * hard + alpha * soft) / 2
    loss = soft_cross_entropy(says(TEACHER), LABELS, temperature=temperature, alpha=alpha)
    assert float(loss(STUDENT, SHOWN)) == pytest.approx(expected)


def test_its_gradient_is_that_of_the_divergence_without_the_squared_temperature() -> None:
    def gradient(loss) -> torch.Tensor:
        student = STUDENT.clone().requires_grad_()
        loss(student, SHOWN).backward()
        return student.grad

    form = gradient(soft_cross_entropy(says(TEACHER), LABELS, temperature=3.0, alpha=1.0))
    hinton = gradient(distillation(says(TEACHER), LABELS, temperature=3.0, alpha=1.0))
    torch.testing.assert_close(form * 9, hinton)


@pytest.mark.parametrize(
    ("form", "share"),
    [
        (lambda **more: soft_cross_entropy(temperature=2.0, alpha=0.6, **more), 0.4),
        (lambda **more: DecoupledLoss(temperature=2.0, alpha=1.0, beta=2.0, **more), 1.0),
    ],
)
def test_the_labels_beside_a_teacher_can_be_smoothed(form, share: float) -> None:
    plain, smoothed = (
        form(teacher=says(TEACHER), labels=LABELS, smoothing=s)(STUDENT, SHOWN) for s in (0.0, 0.25)
    )
    on_labels = [cross_entropy(LABELS, smoothing=s)(STUDENT, SHOWN) for s in (0.0, 0.25)]
    torch.testing.assert_close(smoothed - plain, share * (on_labels[1] - on_labels[0]))


def test_a_uniform_teacher_in_this_form_is_label_smoothing() -> None:
    form = soft_cross_entropy(says(torch.zeros(4, 3)), LABELS, temperature=1.0, alpha=0.6)
    smoothed = cross_entropy(LABELS, smoothing=0.6)
    student = STUDENT.float()
    assert float(form(student, SHOWN)) == pytest.approx(float(smoothed(student, SHOWN)))


def decoupled_loss(alpha: float, beta: float, **more) -> DecoupledLoss:
    return DecoupledLoss(says(TEACHER), LABELS, temperature=2.0, alpha=alpha, beta=beta, **more)


def test_decoupled_distillation_by_hand() -> None:
    target_part, other_part = decoupled(STUDENT, TEACHER[[1, 3]], LABELS[[1, 3]])
    for row, (student, example) in enumerate(zip(STUDENT.tolist(), [1, 3], strict=True)):
        target = int(LABELS[example])
        teacher = TEACHER[example].tolist()
        p, q = softmax(teacher), softmax(student)
        both = kl([p[target], 1 - p[target]], [q[target], 1 - q[target]])
        rest = [
            softmax([v for i, v in enumerate(logits) if i != target])
            for logits in (teacher, student)
        ]
        assert float(target_part[row]) == pytest.approx(both)
        assert float(other_part[row]) == pytest.approx(kl(*rest))
        # The whole divergence is TCKD + (1 − p)·NCKD.
        assert kl(p, q) == pytest.approx(both + (1 - p[target]) * kl(*rest))


def test_with_the_teachers_doubt_as_beta_it_is_plain_distillation() -> None:
    one = Batch((torch.zeros(1, 1),), torch.tensor([3]))
    doubt = 1 - float((TEACHER[3] / 2).softmax(0)[LABELS[3]])
    plain = distillation(says(TEACHER), LABELS, temperature=2.0, alpha=1.0)
    hard = cross_entropy(LABELS)(STUDENT[1:], one)
    value = decoupled_loss(1.0, doubt)(STUDENT[1:], one)
    assert float(value) == pytest.approx(float(plain(STUDENT[1:], one) + hard))


def test_answers_far_apart_stay_finite() -> None:
    student = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[300.0, -300.0, 0.0]])
    sum(part.sum() for part in decoupled(student, teacher, torch.tensor([0]))).backward()
    assert torch.isfinite(student.grad).all()


def test_decoupled_distillation_warms_up_by_epochs() -> None:
    hard = float(cross_entropy(LABELS)(STUDENT, SHOWN))
    full = float(decoupled_loss(1.0, 8.0)(STUDENT, SHOWN)) - hard
    loss = decoupled_loss(1.0, 8.0, warmup_epochs=4)
    for done, share in [(0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)]:
        loss.epoch_done(done)
        assert float(loss(STUDENT, SHOWN)) - hard == pytest.approx(share * full)
    assert int(loss.state_dict()["done"]) == 9


def test_the_published_loss_by_hand() -> None:
    expected = 0.0
    for row, example in zip(STUDENT.tolist(), [1, 3], strict=True):
        p = softmax([v / 3 for v in softmax(TEACHER[example].tolist())])
        q = softmax([v / 3 for v in softmax(row)])
        hard = -math.log(softmax(row)[LABELS[example]])
        expected += (0.1 * hard + 0.9 * 9 * kl(p, q)) / 2
    loss = published_loss(says(TEACHER), LABELS, alpha=0.1)
    assert float(loss(STUDENT, SHOWN)) == pytest.approx(expected)


def test_the_published_divergence_is_bounded_by_its_double_softmax() -> None:
    # Ten classes, teacher and student sure of two different ones.
    sure = 100.0 * torch.eye(10, dtype=torch.float64)
    one = Batch((torch.zeros(1, 1),), torch.tensor([0]))
    worst = float(published_loss(says(sure[:1]), torch.tensor([0]), alpha=0.0)(sure[1:2], one))
    assert worst == pytest.approx(0.114, abs=5e-4)
    honest = distillation(says(sure[:1]), torch.tensor([0]), temperature=3.0, alpha=1.0)
    assert float(honest(sure[1:2], one)) > 100


def test_the_published_alpha_weighs_the_labels() -> None:
    loss = published_loss(says(TEACHER), LABELS, alpha=1.0)(STUDENT, SHOWN)
    assert float(loss) == pytest.approx(float(cross_entropy(LABELS)(STUDENT, SHOWN)))
