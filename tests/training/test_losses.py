"""The losses, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgebench.training_settings import Training
from edgebench.training.loop import deterministic, fit, predict
from edgebench.training.losses import as_logits, cross_entropy, distillation


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(v / temperature) for v in values]
    return [p / sum(powers) for p in powers]


STUDENT = [[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]]
TEACHER = [[9.0, 9.0, 9.0], [1.0, -1.0, 0.0], [9.0, 0.0, 0.0], [0.0, 2.0, 1.0]]
LABELS = [2, 0, 2, 1]
# The student's rows are the answers to these training examples.
CHOSEN = [1, 3]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_distillation_by_hand(temperature: float, alpha: float) -> None:
    soft = hard = 0.0
    for row, example in enumerate(CHOSEN):
        p = softmax(TEACHER[example], temperature)
        q = softmax(STUDENT[row], temperature)
        soft += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(CHOSEN)
        hard -= math.log(softmax(STUDENT[row])[LABELS[example]]) / len(CHOSEN)
    expected = (1 - alpha) * hard + alpha * temperature**2 * soft
    loss = distillation(
        torch.tensor(TEACHER), torch.tensor(LABELS), temperature=temperature, alpha=alpha
    )
    assert float(loss(torch.tensor(STUDENT), torch.tensor(CHOSEN))) == pytest.approx(expected)


def test_the_teachers_own_answer_costs_nothing() -> None:
    teacher = torch.tensor(TEACHER)
    loss = distillation(teacher, torch.tensor(LABELS), temperature=3.0, alpha=1.0)
    assert float(loss(teacher + 5.0, torch.arange(4))) == pytest.approx(0.0, abs=1e-6)


def test_distillation_of_probabilities_is_that_of_their_logits() -> None:
    teacher, labels = torch.tensor(TEACHER), torch.tensor(LABELS)
    student, chosen = torch.tensor(STUDENT), torch.tensor(CHOSEN)
    plain = distillation(teacher, labels, temperature=2.0, alpha=0.5)
    soft = distillation(
        as_logits(teacher.softmax(1), True),
        labels,
        temperature=2.0,
        alpha=0.5,
        probabilities=True,
    )
    assert float(soft(student.softmax(1), chosen)) == pytest.approx(float(plain(student, chosen)))


def test_cross_entropy_by_hand() -> None:
    loss = cross_entropy(torch.tensor(LABELS))
    expected = -sum(math.log(softmax(STUDENT[i])[LABELS[e]]) for i, e in enumerate(CHOSEN)) / 2
    assert float(loss(torch.tensor(STUDENT), torch.tensor(CHOSEN))) == pytest.approx(expected)


def test_logits_are_left_alone_and_probabilities_taken_back() -> None:
    logits = torch.tensor(STUDENT)
    assert torch.equal(as_logits(logits, False), logits)
    recovered = as_logits(logits.softmax(1), True)
    assert torch.allclose(recovered - recovered[:, :1], logits - logits[:, :1], atol=1e-5)
    assert torch.isfinite(as_logits(torch.tensor([[1.0, 0.0]]), True)).all()


def test_a_network_that_ends_in_a_softmax_learns_as_its_twin_without(data) -> None:
    def trained(*last: nn.Module) -> np.ndarray:
        with deterministic(0):
            module = nn.Sequential(
                nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), *last
            )
        loss = cross_entropy(torch.from_numpy(data.train_y), probabilities=bool(last))
        x = torch.from_numpy(data.train_x)
        settings = Training(epochs=3, batch_size=32, learning_rate=5e-3)
        fit(module, x, loss, settings, seed=0, what="base")
        answer = predict(module, x)
        return (answer if last else answer.softmax(1)).numpy()

    np.testing.assert_allclose(trained(nn.Softmax(dim=1)), trained(), atol=1e-3)
