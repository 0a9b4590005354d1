"""Masks that are raised while weights change, and only raised."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.pruning.gradual import GradualPruning
from edgebench.pruning.magnitude import share_of_zeros
from edgebench.pruning.masks import ZeroMasks


def weights() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.0": nn.Parameter(torch.randn(10, 10, generator=generator)),
        "b": nn.Parameter(torch.randn(20, 10, generator=generator)),
    }


def shares(pruned: dict[str, nn.Parameter]) -> list[float]:
    return [share_of_zeros([weight]) for weight in pruned.values()]


def test_each_layer_goes_the_same_share_of_its_own_way() -> None:
    pruned = weights()
    pruning = GradualPruning(
        pruned, ZeroMasks(pruned), 0.75, {"a.0": 0.45, "b": 0.9}, schedule="iterative", steps=2
    )
    pruning.begin()
    # Of 75 %, the first of two steps makes 50 %, i.e. two thirds.
    assert shares(pruned) == pytest.approx([0.3, 0.6])
    for done in (1, 2, 3):
        pruning.on_update(done, 8)
    assert shares(pruned) == pytest.approx([0.3, 0.6])
    pruning.on_update(4, 8)
    assert shares(pruned) == pytest.approx([0.45, 0.9])


def test_a_weight_that_is_gone_never_comes_back() -> None:
    pruned = weights()
    kept = ZeroMasks(pruned)
    pruning = GradualPruning(pruned, kept, 0.8, schedule="cubic", steps=4)
    pruning.begin()
    assert shares(pruned) == [0, 0]
    gone = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in pruned.items()}
    generator = torch.Generator().manual_seed(1)
    for done in range(1, 17):
        for weight in pruned.values():
            weight.data += torch.randn(weight.shape, generator=generator)
        pruning.on_update(done, 16)
        for name, weight in pruned.items():
            assert not weight[gone[name]].any()
            gone[name] = weight.detach() == 0
        step = min(4, done * 4 * 4 // (16 * 3))
        wanted = 0.8 * (1 - (1 - step / 4) ** 3)
        assert share_of_zeros(list(pruned.values())) == pytest.approx(wanted, abs=0.5 / 300)


def test_passing_a_step_again_with_other_weights_changes_no_mask() -> None:
    pruned = weights()
    kept = ZeroMasks(pruned)
    pruning = GradualPruning(pruned, kept, 0.6, schedule="iterative", steps=3)
    pruning.begin()
    pruning.on_update(5, 9)
    masks = {name: mask.clone() for name, mask in kept.masks().items()}
    # As after a kill: the masks are those of the checkpoint, the schedule starts anew.
    for weight in pruned.values():
        weight.data += torch.randn(weight.shape)
    kept.apply_to_weights()
    again = GradualPruning(pruned, kept, 0.6, schedule="iterative", steps=3)
    again.on_update(5, 9)
    assert all(torch.equal(masks[name], mask) for name, mask in kept.masks().items())


def test_masks_are_stored_and_zeros_have_no_sign() -> None:
    pruned = {"w": nn.Parameter(torch.tensor([[-0.0, 1.0, -2.0]]))}
    kept = ZeroMasks(pruned)
    assert kept.masks()["w"].tolist() == [[True, False, False]]
    kept.hold({"w": torch.tensor([[True, False, True]])})
    kept.apply_to_weights()
    assert pruned["w"].tolist() == [[0, 1, 0]]
    assert not torch.signbit(pruned["w"]).any()
    other = ZeroMasks({"w": nn.Parameter(torch.ones(1, 3))})
    other.load_state_dict(kept.state_dict())
    assert other.masks()["w"].tolist() == [[True, False, True]]
    assert not list(kept.parameters())


def test_more_prunings_than_updates_are_refused() -> None:
    pruned = weights()
    GradualPruning(pruned, ZeroMasks(pruned), 0.5, schedule="cubic", steps=15).check_room(20)
    with pytest.raises(BuildError, match=r"16 prunings do not fit into the 20 updates .* for 15"):
        GradualPruning(pruned, ZeroMasks(pruned), 0.5, schedule="cubic", steps=16).check_room(20)
    GradualPruning(pruned, ZeroMasks(pruned), 0.5).check_room(1)
