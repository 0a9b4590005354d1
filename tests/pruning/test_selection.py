"""Which weights are meant: by layer, by block, shared ones once, unknown ones not at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from edgebench.errors import BuildError
from edgebench.pruning.selection import chosen_weights, left_dense, prunable_weights


class Network(nn.Module):
    """Blocks, a shared weight, a layer under two names, an attention and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv1d(8, 8, 1))
        self.attend = nn.MultiheadAttention(8, 2)
        self.first = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.first.weight
        self.alias = self.stem
        self.table = nn.Embedding(5, 8)


def test_every_weight_stands_once_under_its_layers_name() -> None:
    module = Network()
    found = prunable_weights(module)
    assert {name: weight.path for name, weight in found.items()} == {
        "stem": "stem.weight",
        "block.0": "block.0.weight",
        "block.2": "block.2.weight",
        "attend": "attend.in_proj_weight",
        "attend.out_proj": "attend.out_proj.weight",
        "first": "first.weight",
    }
    assert found["first"].layers == ["first", "tied"]
    assert found["stem"].layers == ["stem", "alias"]
    assert found["attend"].parameter is module.attend.in_proj_weight
    assert left_dense(module) == ["table.weight"]


def test_an_attention_over_other_widths_has_three_input_weights() -> None:
    module = nn.Sequential(nn.MultiheadAttention(8, 2, kdim=4, vdim=6))
    names = [f"0.{part}_proj_weight" for part in "qkv"]
    assert list(prunable_weights(module)) == [*names, "0.out_proj"]
    assert list(chosen_weights(module, ["0"], ["0.out_proj"])) == names


def test_a_model_that_is_a_layer_has_its_kind_for_a_name() -> None:
    assert list(chosen_weights(nn.Linear(3, 2))) == ["Linear"]


@pytest.mark.parametrize(
    ("layers", "exclude", "wanted"),
    [
        (["block"], [], ["block.0", "block.2"]),
        (["block", "first"], ["block.0"], ["block.2", "first"]),
        (["tied"], [], ["first"]),
        (["alias"], [], ["stem"]),
        (["attend"], [], ["attend", "attend.out_proj"]),
        (None, ["block", "attend", "alias"], ["first"]),
        # A shared weight that one of its layers leaves out is left alone.
        (["first", "stem"], ["tied"], ["stem"]),
    ],
)
def test_names_of_layers_and_blocks(layers, exclude, wanted: list[str]) -> None:
    assert list(chosen_weights(Network(), layers, exclude)) == wanted


@pytest.mark.parametrize(
    ("layers", "exclude", "text"),
    [
        (["blok"], [], "the model has no layer 'blok'; did you mean 'block'?"),
        (None, ["xyzzy"], "the model has no layer 'xyzzy'; layers: 'stem', 'alias'"),
        (
            ["block.1"],
            [],
            r"'block.1' \(ReLU\) is no convolution or dense layer, and has none; lay",
        ),
        (["first"], ["first"], "'exclude' leaves no layer to prune; layers: 'stem'"),
        (["bloc.2"], [], r"did you mean 'block.2'"),
        # 'block.1' is as near, but a ReLU.
        (["block1"], [], r"did you mean 'block(.[02])?'"),
    ],
)
def test_a_name_that_leads_nowhere(layers, exclude, text: str) -> None:
    with pytest.raises(BuildError, match=text) as caught:
        chosen_weights(Network(), layers, exclude)
    assert "\n" not in str(caught.value)


def test_many_names_are_cut_short() -> None:
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    with pytest.raises(BuildError, match=r"'5' and 6 more$"):
        chosen_weights(module, ["conv"])


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, torch.nn.utils.spectral_norm])
def test_zeros_in_a_computed_weight_would_not_last(wrap) -> None:
    module = nn.Sequential(wrap(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.raises(BuildError, match=r"the weight of '0' is computed .* exclude the layer"):
        chosen_weights(module)
    assert list(chosen_weights(module, exclude=["0"])) == ["1"]


def test_nothing_to_prune() -> None:
    with pytest.raises(BuildError, match="no convolution or dense layer to prune"):
        chosen_weights(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
