"""The losses, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgebench.training.loop import deterministic, fit, predict
from edgebench.training.losses import (
    Batch,
    Teacher,
    as_logits,
    cross_entropy,
    distillation,
    network_teacher,
)
from edgebench.training_settings import Training


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(v / temperature) for v in values]
    return [p / sum(powers) for p in powers]


STUDENT = [[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]]
TEACHER = [[9.0, 9.0, 9.0], [1.0, -1.0, 0.0], [9.0, 0.0, 0.0], [0.0, 2.0, 1.0]]
LABELS = [2, 0, 2, 1]
# The student's rows are the answers to these training examples.
CHOSEN = [1, 3]


def batch(chosen: list[int], *, augmented: bool = False) -> Batch:
    examples = torch.tensor(chosen)
    return Batch((torch.zeros(len(chosen), 3),), examples, augmented)


def says(rows: list[list[float]] | torch.Tensor) -> Teacher:
    """A teacher with a row of logits for each training example."""
    return lambda shown: torch.as_tensor(rows)[shown.chosen]


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
    loss = distillation(says(TEACHER), torch.tensor(LABELS), temperature=temperature, alpha=alpha)
    assert float(loss(torch.tensor(STUDENT), batch(CHOSEN))) == pytest.approx(expected)


def test_the_labels_of_a_distillation_can_be_smoothed() -> None:
    share, smoothing = 0.3, 0.25
    labels, student = torch.tensor(LABELS), torch.tensor(STUDENT)
    common = {"temperature": 4.0, "alpha": share}
    plain = distillation(says(TEACHER), labels, **common)
    smoothed = distillation(says(TEACHER), labels, **common, smoothing=smoothing)
    on_labels = [cross_entropy(labels, smoothing=s)(student, batch(CHOSEN)) for s in (0, smoothing)]
    difference = smoothed(student, batch(CHOSEN)) - plain(student, batch(CHOSEN))
    torch.testing.assert_close(difference, (1 - share) * (on_labels[1] - on_labels[0]))


def test_the_gradient_is_the_difference_of_the_softened_answers() -> None:
    # d/dz of KL(p ‖ q) at temperature T is (q − p)/T; T² makes that T·(q − p).
    temperature = 5.0
    student = torch.tensor(STUDENT[:1], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(TEACHER[1:2], dtype=torch.float64)
    loss = distillation(says(teacher), torch.tensor([0]), temperature=temperature, alpha=1.0)
    loss(student, batch([0])).backward()
    q = (student.detach() / temperature).softmax(1)
    p = (teacher / temperature).softmax(1)
    torch.testing.assert_close(student.grad, temperature * (q - p))


def test_at_high_temperature_the_logits_themselves_are_matched() -> None:
    # (q − p)/T → (z − v)/(N·T²) for logits of zero mean, so that with T² it is (z − v)/N.
    z = torch.tensor([[1.0, -0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[0.25, 0.5, -0.75]], dtype=torch.float64)
    distillation(says(v), torch.tensor([0]), temperature=1e4, alpha=1.0)(z, batch([0])).backward()
    torch.testing.assert_close(z.grad, (z.detach() - v) / 3, rtol=1e-3, atol=0)


def test_the_teachers_own_answer_costs_nothing() -> None:
    teacher = torch.tensor(TEACHER)
    loss = distillation(says(teacher), torch.tensor(LABELS), temperature=3.0, alpha=1.0)
    assert float(loss(teacher + 5.0, batch([0, 1, 2, 3]))) == pytest.approx(0.0, abs=1e-6)


def test_distillation_of_probabilities_is_that_of_their_logits() -> None:
    teacher, labels = torch.tensor(TEACHER), torch.tensor(LABELS)
    student, shown = torch.tensor(STUDENT), batch(CHOSEN)
    plain = distillation(says(teacher), labels, temperature=2.0, alpha=0.5)
    soft = distillation(
        says(as_logits(teacher.softmax(1), True)),
        labels,
        temperature=2.0,
        alpha=0.5,
        probabilities=True,
    )
    assert float(soft(student.softmax(1), shown)) == pytest.approx(float(plain(student, shown)))


def test_cross_entropy_by_hand() -> None:
    loss = cross_entropy(torch.tensor(LABELS))
    expected = -sum(math.log(softmax(STUDENT[i])[LABELS[e]]) for i, e in enumerate(CHOSEN)) / 2
    assert float(loss(torch.tensor(STUDENT), batch(CHOSEN))) == pytest.approx(expected)


def test_label_smoothing_of_six_tenths_leaves_46_hundredths() -> None:
    # Ten classes: 1 − .6 + .06 = .46 for the label and .06 for each other (paper 004).
    logits = torch.linspace(-2, 3, 10)[None]
    loss = cross_entropy(torch.tensor([4]), smoothing=0.6)(logits, batch([0]))
    targets = torch.full((10,), 0.06)
    targets[4] = 0.46
    assert float(loss) == pytest.approx(float(-(targets * logits[0].log_softmax(0)).sum()))
    assert float(-(targets * targets.log()).sum()) == pytest.approx(1.876, abs=5e-4)


class Asked(nn.Module):
    """Three logits, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)
        self.times = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.times += 1
        return self.drop(self.head(x))


def test_a_network_teaches_what_it_answers_to_the_training_examples() -> None:
    with deterministic(0):
        network, x = Asked().train(), torch.rand(600, 3)
    teach = network_teacher(network, x)
    answers = teach(Batch((x[[5, 1]] + 1,), torch.tensor([5, 1])))
    torch.testing.assert_close(answers, predict(network, x)[[5, 1]])
    assert not answers.requires_grad


def test_a_network_teaches_what_it_answers_to_augmented_inputs() -> None:
    with deterministic(0):
        network, x = Asked(), torch.rand(6, 3)
    teach = network_teacher(network, x)
    shown = x[[5, 1]] + 1
    answers = teach(Batch((shown,), torch.tensor([5, 1]), augmented=True))
    torch.testing.assert_close(answers, predict(network, shown))
    assert not answers.requires_grad


def test_the_teacher_is_asked_once_where_nothing_is_augmented(monkeypatch) -> None:
    times: list[int] = []
    monkeypatch.setattr(Asked, "forward", lambda self, x: times.append(len(x)) or self.head(x))
    x = torch.rand(600, 3)
    teach = network_teacher(Asked(), x)
    for chosen in ([0, 1], [2, 3]):
        teach(batch(chosen))
    assert times == [256, 256, 88]
    teach(batch([0, 1], augmented=True))
    assert times[3:] == [2]


def test_the_teacher_answers_in_full_precision_where_the_student_trains_in_half() -> None:
    with deterministic(0):
        network, x = Asked(), torch.rand(6, 3)
    expected = predict(network, x)[[5, 1]]
    shown = (x[[5, 1]],)
    teach = network_teacher(network, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.head(x).dtype == torch.bfloat16
        for augmented in (False, True):
            answers = teach(Batch(shown, torch.tensor([5, 1]), augmented))
            assert answers.dtype == torch.float32
            torch.testing.assert_close(answers, expected)


def test_the_teacher_itself_is_not_touched() -> None:
    network = Asked().train()
    network_teacher(network, torch.rand(4, 3))(batch([0, 1]))
    assert network.training
    assert network.times == 0


def test_logits_are_left_alone_and_probabilities_taken_back() -> None:
    logits = torch.tensor(STUDENT)
    assert torch.equal(as_logits(logits, False), logits)
    recovered = as_logits(logits.softmax(1), True)
    assert torch.allclose(recovered - recovered[:, :1], logits - logits[:, :1], atol=1e-5)
    assert torch.isfinite(as_logits(torch.tensor([[1.0, 0.0]]), True)).all()


def test_half_precision_is_widened_before_a_temperature_divides_it() -> None:
    logits = torch.tensor(STUDENT)
    for dtype in (torch.bfloat16, torch.float16):
        assert as_logits(logits.to(dtype), False).dtype == torch.float32
    assert as_logits(logits.double(), False).dtype == torch.float64


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
