"""A student learns base's answers; the teacher stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgebench.errors import BuildError
from edgebench.models.base import MODELS
from edgebench.techniques.base import TECHNIQUES

DISTILL = TECHNIQUES.get("distill")


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def distill(tools, module, context, **options):
    return DISTILL().apply(module, tools.options_of("distill", **options), context)


def test_the_student_is_smaller_and_the_teacher_unchanged(network, context, tools) -> None:
    teacher = network("lenet")
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    used = context(base=teacher)
    student, outcome = distill(tools, network("lenet"), used, width=0.125)
    assert size(student) < size(teacher)
    assert all(torch.equal(before[key], tensor) for key, tensor in teacher.state_dict().items())
    assert outcome.notes == [
        f"the student has {size(student):,} parameters, its teacher {size(teacher):,}"
    ]
    assert not student.training


def test_the_student_is_half_as_wide_where_nothing_is_said(network, context, tools) -> None:
    student, _ = distill(tools, network("lenet"), context(), epochs=1)
    assert student[0].out_channels == 16


def test_a_student_of_another_architecture(data, network, context, tools) -> None:
    student, _ = distill(
        tools, network("lenet"), context(), student="resnet8", width=0.25, epochs=1
    )
    assert size(student) == size(MODELS.get("resnet8")(data.input_shape, 10, 0.25))
    identity = DISTILL().identity(tools.options_of("distill", student="resnet8", width=0.25))
    assert identity["model"] == "resnet8"
    assert DISTILL().identity(tools.options_of("distill")) == {}


def test_the_student_learns_the_teachers_answers(data, network, context, tools) -> None:
    teacher = network("resnet8")
    wanted = tools.run_module(teacher, data.test_x).argmax(1)

    def agreement(**options) -> float:
        student, _ = distill(
            tools, network("lenet"), context(base=teacher), width=0.25, alpha=1.0, **options
        )
        return float((tools.run_module(student, data.test_x).argmax(1) == wanted).mean())

    assert agreement(epochs=12) > 0.7
    assert agreement(epochs=12) > agreement(epochs=1, learning_rate=1e-6) + 0.3


def test_alpha_zero_learns_the_labels_alone(data, network, context, tools) -> None:
    def student(teacher: str) -> dict[str, torch.Tensor]:
        used = context(base=network(teacher))
        return distill(tools, network("lenet"), used, alpha=0.0, epochs=1)[0].state_dict()

    one, other = student("lenet"), student("resnet8")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_without_a_base_the_module_itself_teaches(network, context, tools) -> None:
    given, _ = distill(tools, network("lenet"), context(base=None), epochs=1)
    base, _ = distill(tools, network("resnet8"), context(), epochs=1)
    np.testing.assert_array_equal(given[0].weight.detach(), base[0].weight.detach())


def test_training_follows_base_unless_told_otherwise(network, context, tools) -> None:
    seen: list[int] = []
    used = context(on_epoch=lambda done, total, loss: seen.append(total))
    distill(tools, network("lenet"), used, width=0.125)
    assert seen == [2, 2]
    seen.clear()
    distill(tools, network("lenet"), used, width=0.125, epochs=3)
    assert seen == [3, 3, 3]


def test_an_onnx_file_makes_no_students(network, context, tools) -> None:
    with pytest.raises(BuildError, match="no student can be made"):
        distill(tools, network("lenet"), context(new_module=None))


def test_a_factory_without_width_says_what_to_do(network, context, tools) -> None:
    from edgebench.models.base import call_factory

    def factory(classes: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))

    def new_module(**options):
        return call_factory(
            factory, input_shape=(1, 8, 8), classes=10, options=options, where="model 'm:f'"
        )

    with pytest.raises(BuildError, match=r"takes no 'width'; say how it is smaller with 'options:"):
        distill(tools, network("lenet"), context(new_module=new_module))
