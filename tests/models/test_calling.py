"""How modules of any inputs are called, and what their answers are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgebench.errors import DataError, ModelError
from edgebench.models.calling import (
    answers,
    argument_order,
    check_module,
    float_type,
    named_answers,
)
from edgebench.models.source import ModelSource


class Two(nn.Module):
    def forward(self, image, size, mask=None, *, scale=1.0):
        return image.sum(1) + size


class Any(nn.Module):
    def forward(self, *inputs):
        return sum(inputs)


class Answers(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def test_arguments_of_these_names_decide_the_order() -> None:
    assert argument_order(Two(), ["size", "image"], where="d") == ("image", "size")
    assert argument_order(Two(), ["mask", "size", "image"], where="d") == ("image", "size", "mask")


def test_other_names_go_by_their_place() -> None:
    assert argument_order(Two(), ["a", "b"], where="d") is None
    assert argument_order(Two(), ["a", "b", "c"], where="d") is None
    assert argument_order(Any(), ["a", "b", "c", "d"], where="d") is None


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["image", "sise"], "no argument 'sise'; did you mean 'size'"),
        (["image"], "no array 'size', which forward takes"),
        (["image", "size", "scale"], "no argument 'scale'"),
        (["a"], r"holds 1 inputs \(a\), and the model's forward takes 3"),
        (["a", "b", "c", "d"], "holds 4 inputs"),
    ],
)
def test_arrays_that_are_not_the_arguments(names: list[str], text: str) -> None:
    with pytest.raises(DataError, match=text) as caught:
        argument_order(Two(), names, where="d")
    assert "\n" not in caught.value.line()


def test_an_input_left_out_before_the_last_cannot_be_passed_by_place() -> None:
    class Gap(nn.Module):
        def forward(self, a, b=None, c=None):
            return a

    with pytest.raises(DataError, match="no array 'b'"):
        argument_order(Gap(), ["a", "c"], where="d")


def test_answers_have_names() -> None:
    x = torch.ones(3, 2)
    assert list(named_answers(x, where="m")) == ["output"]
    assert list(named_answers((x, x), where="m")) == ["output-0", "output-1"]
    assert list(named_answers({"z": x, "a": x}, where="m")) == ["z", "a"]
    for wrong, text in (
        (3, "returns a int"),
        ([x, None], "'output-1' is a NoneType"),
        ((), "empty"),
    ):
        with pytest.raises(ModelError, match=text):
            named_answers(wrong, where="m")


def test_answers_in_batches_are_those_of_all_at_once() -> None:
    x, y = torch.rand(150, 4), torch.rand(150)
    found = answers(Two(), (x, y))["output"]
    torch.testing.assert_close(found, x.sum(1) + y)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda x: x.sum(), "has shape \\[\\] for 2 examples"),
        (lambda x: x[:1], "has shape \\[1, 3\\] for 2 examples"),
        (lambda x: {"a": x, "b": x / 0}, "'b' is not finite"),
        (lambda x: x @ x, "the model fails on inputs float32 \\[2, 3\\]"),
    ],
)
def test_a_module_that_does_not_fit(make, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        check_module(Answers(make), (torch.ones(2, 3),), where="m")
    assert "\n" not in caught.value.line()


def test_the_shapes_of_one_example() -> None:
    module = Answers(lambda x: {"map": x[:, None], "hit": x.argmax(1)})
    assert check_module(module, (torch.ones(2, 3),), where="m") == {"map": (1, 3), "hit": ()}


def test_floats_are_of_the_modules_type() -> None:
    assert float_type(nn.Linear(1, 1)) == "float32"
    assert float_type(nn.Linear(1, 1).double()) == "float64"
    assert float_type(nn.ReLU()) == "float32"


def test_a_factory_gets_what_inputs_tell() -> None:
    seen = {}

    def factory(input_shape=(9,), classes=7, width=1):
        seen.update(input_shape=input_shape, classes=classes, width=width)
        return nn.Identity()

    ModelSource("m:f", {"width": 2}, factory).build_for({"x": (3, 4)})
    assert seen == {"input_shape": (3, 4), "classes": 7, "width": 2}
    ModelSource("m:f", {"classes": 5}, factory).build_for({"x": (3,), "y": ()})
    assert seen == {"input_shape": (9,), "classes": 5, "width": 1}

    def needs(classes):
        return nn.Identity()

    with pytest.raises(ModelError, match=r"takes 'classes'.*set model_options.classes"):
        ModelSource("m:f", {}, needs).build_for({"x": (3,)})
