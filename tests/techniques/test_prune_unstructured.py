"""The smallest weights become zero: exactly as many as were asked for, and they stay zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgebench.errors import BuildError, RecipeError
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.techniques.base import TECHNIQUES
from edgebench.training_settings import Training
from edgebench.validation import validated
from edgebench.yamlfile import parse_yaml

PRUNE = TECHNIQUES.get("prune-unstructured")
NETWORKS = ["lenet", "resnet8", "mobilenetv1"]


def prune(tools, module: nn.Module, context, **options):
    return PRUNE().apply(module, tools.options_of("prune-unstructured", **options), context)


def share_of_zeros(weights: dict[str, torch.Tensor]) -> float:
    total = sum(w.numel() for w in weights.values())
    return sum(int((w == 0).sum()) for w in weights.values()) / total


def shares(outcome) -> dict[str, float]:
    (figure,) = [f for f in outcome.figures if f.kind == "bar"]
    return {name: points[0][1] for name, points in figure.series.items()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_the_one_asked_for(
    network, context, tools, name: str, ratio: float
) -> None:
    before = tools.weights_of(network(name))
    module, outcome = prune(tools, network(name), context(), ratio=ratio)
    after = tools.weights_of(module)
    total = sum(w.numel() for w in after.values())
    assert share_of_zeros(after) * total == pytest.approx(round(ratio * total))
    assert outcome.notes[0] == f"{ratio:.1%} of the weights are zero"
    assert shares(outcome) == {key: share_of_zeros({"": w}) for key, w in after.items()}
    kept = torch.cat([before[k][w != 0].abs() for k, w in after.items()])
    gone = torch.cat([before[k][w == 0].abs() for k, w in after.items()])
    assert gone.max() <= kept.min()
    assert all(torch.equal(before[k][w != 0], w[w != 0]) for k, w in after.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_biases_and_normalisation_are_left_alone(network, context, tools, name: str) -> None:
    original = network(name)
    weights = {f"{key}.weight" for key in tools.weights_of(original)}
    module, _ = prune(tools, network(name), context(), ratio=0.9)
    state = module.state_dict()
    others = {key: t for key, t in original.state_dict().items() if key not in weights}
    assert others
    assert all(torch.equal(state[key], tensor) for key, tensor in others.items())


def test_one_threshold_for_each_layer(network, context, tools) -> None:
    module, _ = prune(tools, network("lenet"), context(), ratio=0.6, allocation="layer")
    for weight in tools.weights_of(module).values():
        assert int((weight == 0).sum()) == round(0.6 * weight.numel())
    overall, _ = prune(tools, network("lenet"), context(), ratio=0.6, allocation="global")
    by_layer = [share_of_zeros({"": w}) for w in tools.weights_of(overall).values()]
    assert max(by_layer) - min(by_layer) > 0.05


def test_the_norm_matters_only_where_magnitudes_are_normalised(network, context, tools) -> None:
    def zeros(**options) -> list[torch.Tensor]:
        module, outcome = prune(tools, network("lenet"), context(), ratio=0.6, **options)
        assert outcome.notes[0] == "60.0% of the weights are zero"
        return [weight == 0 for weight in tools.weights_of(module).values()]

    def alike(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    assert alike(zeros(importance="l1"), zeros(importance="l2"))
    l1, l2 = (zeros(importance=norm, normalize=True) for norm in ("l1", "l2"))
    assert not alike(l1, l2)
    assert not alike(l1, zeros())


def test_a_layer_scaled_up_loses_as_many_weights_once_normalised(network, context, tools) -> None:
    def share(*, normalize: bool, factor: float) -> float:
        module = network("lenet")
        module[9].weight.data *= factor
        _, outcome = prune(tools, module, context(), ratio=0.5, normalize=normalize)
        return shares(outcome)["9"]

    assert share(normalize=False, factor=64) < 0.02 < share(normalize=False, factor=1)
    assert share(normalize=True, factor=64) == share(normalize=True, factor=1)


@pytest.mark.parametrize("allocation", ["global", "layer"])
def test_zeros_stay_zero_while_the_rest_is_trained_on(
    network, context, tools, allocation: str
) -> None:
    options: dict[str, Any] = {"ratio": 0.8, "allocation": allocation}
    bare, _ = prune(tools, network("lenet"), context(), **options)
    tuned, outcome = prune(
        tools, network("lenet"), context(), **options, finetune={"epochs": 2, "learning_rate": 0.01}
    )
    zeros, after = tools.weights_of(bare), tools.weights_of(tuned)
    for key, weight in after.items():
        assert not weight[zeros[key] == 0].any()
        assert not torch.equal(weight, zeros[key])
    assert share_of_zeros(after) == pytest.approx(0.8, abs=1e-3)
    assert outcome.notes == ["80.0% of the weights are zero"]
    assert not tuned.training


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.8},
        {"pattern": "1:4"},
        {"ratio": 0.8, "schedule": "cubic"},
        {"ratio": 0.8, "scope": "all_as_published"},
    ],
)
def test_zeros_are_zeros_bit_for_bit(network, context, tools, options: dict[str, Any]) -> None:
    if "scope" not in options:
        options = {**options, "finetune": {"epochs": 2, "distill": True}}
    module, _ = prune(tools, network("lenet"), context(), **options)
    for tensor in module.state_dict().values():
        # −0.0 has a bit set: it would cost when the file is compressed.
        assert not torch.signbit(tensor[tensor == 0]).any()


def test_a_network_pruned_before_can_be_pruned_further(network, context, tools) -> None:
    first, _ = prune(tools, network("lenet"), context(), ratio=0.5)
    second, _ = prune(tools, first, context(), ratio=0.7)
    assert share_of_zeros(tools.weights_of(second)) == pytest.approx(0.7, abs=1e-3)
    third, outcome = prune(tools, second, context(), ratio=0.2)
    assert share_of_zeros(tools.weights_of(third)) == pytest.approx(0.7, abs=1e-3)
    assert outcome.notes == [
        "70.0% of the weights are zero",
        "nothing more was pruned: 70.0% were zero before",
    ]


def test_earlier_zeros_stay_in_layers_left_out_while_training(network, context, tools) -> None:
    first, _ = prune(tools, network("lenet"), context(), ratio=0.5, layers=["0", "3"])
    zeros = {key: weight == 0 for key, weight in tools.weights_of(first).items()}
    second, outcome = prune(
        tools, first, context(), ratio=0.75, layers=["7"], finetune={"epochs": 1}
    )
    after = tools.weights_of(second)
    for key in ("0", "3"):
        assert torch.equal(after[key] == 0, zeros[key])
    assert share_of_zeros({"": after["7"]}) == pytest.approx(0.75, abs=1e-3)
    assert not (after["9"] == 0).any()
    assert shares(outcome) == {"7": pytest.approx(0.75, abs=1e-3)}
    overall = share_of_zeros(after)
    assert outcome.notes == [
        f"{overall:.1%} of the weights are zero, 75.0% in the layers chosen (1 of 4)"
    ]


def test_layers_left_out_keep_their_weights(network, context, tools) -> None:
    before = tools.weights_of(network("resnet8"))
    module, outcome = prune(tools, network("resnet8"), context(), ratio=0.9, exclude=["0", "5"])
    for key, weight in tools.weights_of(module).items():
        kept = key == "0" or key.startswith("5.")
        assert torch.equal(weight, before[key]) == kept
        assert (key in shares(outcome)) == (not kept)
    with pytest.raises(BuildError, match=r"no layer '3.frist'; did you mean '3.first'"):
        prune(tools, network("resnet8"), context(), ratio=0.9, exclude=["3.frist"])


def test_ratios_by_sensitivity_spare_the_layer_that_matters(network, context, tools) -> None:
    options = {"ratio": 0.6, "allocation": "sensitivity"}
    module, outcome = prune(tools, network("lenet"), context(), **options)
    weights = tools.weights_of(module)
    assert share_of_zeros(weights) == pytest.approx(0.6, abs=2e-3)
    curves = outcome.figures[0].series
    assert list(curves) == list(weights)
    x, y = context().validation()
    whole = tools.accuracy(tools.run_module(network("lenet"), x.numpy()), y.numpy())
    assert all(curve[0] == (0.0, pytest.approx(whole)) for curve in curves.values())
    # One point of a curve, made by hand.
    by_hand = network("lenet")
    weight = by_hand[3].weight.data
    weight[weight.abs() <= weight.abs().flatten().kthvalue(round(0.8 * weight.numel())).values] = 0
    accuracy = tools.accuracy(tools.run_module(by_hand, x.numpy()), y.numpy())
    assert dict(curves["3"])[0.8] == pytest.approx(accuracy)
    # The more of a layer can go before a tenth is lost, the more of it goes.
    room = {
        name: max(r for r, a in curve if all(whole - b <= 0.1 for s, b in curve if s <= r))
        for name, curve in curves.items()
    }
    most, least = max(room, key=room.__getitem__), min(room, key=room.__getitem__)
    assert room[most] > room[least]
    assert shares(outcome)[most] > shares(outcome)[least]
    assert f"{len(y)} training examples, since none are held out" in outcome.notes[1]
    told = dict(part.split() for part in outcome.notes[1].rpartition(": ")[2].split(", "))
    assert {name: float(share.rstrip("%")) for name, share in told.items()} == pytest.approx(
        {name: 100 * share for name, share in shares(outcome).items()}, abs=0.5
    )


def test_sensitivity_is_judged_on_what_was_held_out(data, network, context, tools) -> None:
    held = context(validation_x=data.test_x[:50], validation_y=data.test_y[:50], held_out=True)
    _, outcome = prune(tools, network("lenet"), held, ratio=0.5, allocation="sensitivity")
    right = tools.accuracy(tools.run_module(network("lenet"), data.test_x[:50]), data.test_y[:50])
    assert outcome.figures[0].series["0"][0] == (0.0, pytest.approx(right))
    assert "on 50 examples held out of training:" in outcome.notes[1]


def test_sensitivity_refuses_a_ratio_it_cannot_reach(network, context, tools) -> None:
    with pytest.raises(BuildError, match=r"a ratio of 99.5% is out of reach"):
        prune(tools, network("lenet"), context(), ratio=0.995, allocation="sensitivity")


class Watched:
    """The share of zeros of a network after each epoch; dies in one of them if told to."""

    def __init__(self, tools, module: nn.Module, dies: int = 0) -> None:
        self.tools, self.module, self.dies = tools, module, dies
        self.seen: list[float] = []

    def __call__(self, done: int, total: int, loss: float) -> None:
        del total, loss
        self.seen.append(share_of_zeros(self.tools.weights_of(self.module)))
        if done == self.dies:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("schedule", "steps", "wanted"),
    [
        ("one-shot", None, [0.875] * 4),
        # The next pruning follows the last update of its epoch, and is seen at its end already.
        ("iterative", 2, [1 - 0.125**0.5, 0.875, 0.875, 0.875]),
        ("iterative", None, [1 - 0.125 ** (i / 4) for i in (2, 3, 4, 4)]),
        ("cubic", 3, [0.875 * (1 - left**3) for left in (2 / 3, 1 / 3, 0, 0)]),
    ],
)
@pytest.mark.parametrize("allocation", ["global", "sensitivity"])
def test_sparsity_rises_along_the_schedule(
    network, context, tools, schedule: str, steps: int | None, wanted: list[float], allocation: str
) -> None:
    module = network("lenet")
    watched = Watched(tools, module)
    # 30 examples an update, so that 300 make ten updates, and 40 in four epochs.
    training = Training(epochs=2, batch_size=30, learning_rate=5e-3)
    options: dict[str, Any] = {"schedule": schedule, "steps": steps, "allocation": allocation}
    pruned, outcome = prune(
        tools,
        module,
        context(on_epoch=watched, training=training),
        ratio=0.875,
        finetune={"epochs": 4},
        **options,
    )
    assert watched.seen == pytest.approx(wanted, abs=2e-3)
    assert share_of_zeros(tools.weights_of(pruned)) == pytest.approx(0.875, abs=1e-3)
    assert outcome.notes[0] == "87.5% of the weights are zero"


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.8},
        {"ratio": 0.8, "schedule": "iterative", "steps": 5},
        {"ratio": 0.8, "schedule": "cubic", "steps": 7, "allocation": "layer"},
        {"pattern": "2:4"},
    ],
)
@pytest.mark.parametrize("ema", [None, 0.8])
def test_a_killed_training_goes_on_bit_by_bit(
    network, context, tools, tmp_path: Path, options: dict[str, Any], ema: float | None
) -> None:
    training = Training(epochs=2, batch_size=32, learning_rate=5e-3, ema=ema)
    options = {**options, "finetune": {"epochs": 3, "learning_rate": 0.02}}
    whole, told = prune(tools, network("lenet"), context(training=training), **options)
    for dies in (1, 2):
        module = network("lenet")
        watched = Watched(tools, module, dies)
        with pytest.raises(KeyboardInterrupt):
            prune(
                tools,
                module,
                context(training=training, scratch=tmp_path, on_epoch=watched),
                **options,
            )
    epochs = []
    again, told_again = prune(
        tools,
        network("lenet"),
        context(training=training, scratch=tmp_path, on_epoch=lambda *seen: epochs.append(seen[0])),
        **options,
    )
    # Killed before an epoch was stored, a training loses it: the first one all, the second one its
    # second.
    assert epochs == [2, 3]
    assert told_again == told
    first, second = whole.state_dict(), again.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_averaged_weights_are_pruned_as_well(network, context, tools) -> None:
    training = Training(epochs=2, batch_size=32, learning_rate=5e-3, ema=0.99)
    module, _ = prune(
        tools,
        network("resnet8"),
        context(training=training),
        ratio=0.9,
        schedule="cubic",
        finetune={"epochs": 2},
    )
    weights = tools.weights_of(module)
    assert share_of_zeros(weights) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("tuning", [{}, {"finetune": {"epochs": 1, "learning_rate": 0.01}}])
@pytest.mark.parametrize(("pattern", "share"), [("2:4", 0.5), ("1:2", 0.5), (" 3 : 8 ", 0.625)])
def test_each_group_obeys_the_pattern(
    network, context, tools, pattern: str, share: float, tuning: dict[str, Any]
) -> None:
    n, m = (int(part) for part in pattern.split(":"))
    module, outcome = prune(tools, network("resnet8"), context(), pattern=pattern, **tuning)
    before, weights = tools.weights_of(network("resnet8")), tools.weights_of(module)
    for key, weight in weights.items():
        if key == "0":
            assert (weight != 0).all()
            continue
        for start in range(0, weight.shape[1], m):
            group = weight[:, start : start + m]
            assert group.shape[1] == m
            assert ((group != 0).sum(1) == n).all()
        if not tuning:
            kept = weight != 0
            assert torch.equal(weight[kept], before[key][kept])
        assert share_of_zeros({"": weight}) == share
    assert f"9 of 10 layers obey {n}:{m}: of every {m} weights" in outcome.notes[1]
    assert outcome.notes[2] == f"left dense, their input channels being no multiple of {m}: 0"


def test_a_pattern_that_fits_no_layer_is_refused(network, context, tools) -> None:
    with pytest.raises(BuildError, match="no layer's input channels are a multiple of 16"):
        prune(tools, network("lenet"), context(), pattern="2:16", layers=["0", "3"])


def test_the_published_way_prunes_all_arrays(network, context, tools) -> None:
    module, outcome = prune(
        tools, network("resnet8"), context(), ratio=0.5, scope="all_as_published"
    )
    original = network("resnet8").state_dict()
    floats = {key: t for key, t in original.items() if t.is_floating_point()}
    pool = torch.cat([t.abs().flatten() for t in floats.values()])
    limit = pool.kthvalue(round(0.5 * len(pool))).values
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, original[key] * (original[key].abs() > limit))
    note = outcome.notes[0]
    assert note.startswith("50.0% of the elements of all arrays are zero: weights ")
    assert "running variances" in note
    assert shares(outcome)["running means"] > 0


def test_the_published_way_fails_by_its_running_variances(data, network, context, tools) -> None:
    def accuracy(module: nn.Module) -> float:
        return tools.accuracy(tools.run_module(module, data.test_x), data.test_y)

    whole = accuracy(network("resnet8"))
    module, outcome = prune(
        tools, network("resnet8"), context(), ratio=0.1, scope="all_as_published"
    )
    assert shares(outcome)["running variances"] > 0
    assert accuracy(module) < whole - 0.2
    original = dict(network("resnet8").named_buffers())
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(original[name])
    assert accuracy(module) > whole - 0.05


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lenet", {"ratio": 0.75, "allocation": "sensitivity"}),
        ("resnet8", {"pattern": "2:4", "exclude": ["0"]}),
        ("resnet8", {"ratio": 0.3, "scope": "all_as_published"}),
    ],
)
def test_the_zeros_are_in_the_exported_file(
    data, network, context, tools, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    module, _ = prune(tools, network(name), context(), **options)
    path = tmp_path / "model.onnx"
    # It also compares ONNX Runtime's answers with torch's.
    export_onnx(module, data.test_x[:32], path, opset=20)
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    matrices = [array for array in arrays if array.ndim > 1]
    zeros = sum(int((array == 0).sum()) for array in matrices)
    weights = tools.weights_of(module)
    assert sum(array.size for array in matrices) == sum(w.numel() for w in weights.values())
    assert zeros / sum(array.size for array in matrices) == pytest.approx(
        share_of_zeros(weights), abs=1e-4
    )


class Mixed(nn.Module):
    """Convolutions in one, two and three dimensions, grouped, depthwise, and a shared weight."""

    def __init__(self, *, solid: bool) -> None:
        super().__init__()
        self.two = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=2)
        self.one = nn.Conv1d(8, 8, 3)
        self.three = nn.Conv3d(8, 4, (1, 1, 3)) if solid else None
        self.first = nn.Linear(20 if solid else 56, 20)
        self.second = nn.Linear(20, 20)
        self.third = nn.Linear(20, 20)
        self.third.weight = self.second.weight
        self.scale = nn.Parameter(torch.ones(2, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.depthwise(self.two(x)).relu()).relu()
        x = self.one(x.flatten(2)).relu()
        if self.three is not None:
            x = self.three(x[:, :, None, None]).relu()
        x = self.third(self.second(self.first(x.flatten(1)).relu()).relu())
        return x[:, :10] * self.scale[0]


def mixed(*, solid: bool) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Mixed(solid=solid)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.8, "finetune": {"epochs": 1}},
        {"ratio": 0.8, "allocation": "layer"},
        {"ratio": 0.8, "allocation": "sensitivity"},
        {"ratio": 0.8, "schedule": "iterative", "finetune": {"epochs": 2}},
    ],
)
def test_all_kinds_of_layers_are_pruned_and_shared_weights_once(
    context, tools, options: dict[str, Any]
) -> None:
    # Whoever trains on images lays memory out in a way that takes no fifth dimension.
    solid = "finetune" not in options
    module, outcome = prune(tools, mixed(solid=solid), context(), **options)
    solids = ["three"] if solid else []
    names = ["two", "depthwise", "grouped", "one", *solids, "first", "second"]
    assert list(shares(outcome)) == names
    weights = {name: module.get_parameter(f"{name}.weight").detach() for name in names}
    assert share_of_zeros(weights) == pytest.approx(0.8, abs=0.005)
    assert module.third.weight is module.second.weight
    assert outcome.notes[0] == "80.0% of the weights are zero" or "allocation" in options
    assert outcome.notes[-1].endswith("of no convolution or dense layer: scale")


def test_groups_in_all_kinds_of_layers(context, tools) -> None:
    module, outcome = prune(tools, mixed(solid=True), context(), pattern="2:4")
    assert shares(outcome) == {
        **dict.fromkeys(["two", "depthwise"], 0),
        **dict.fromkeys(["grouped", "one", "three", "first", "second"], 0.5),
    }
    assert "left dense, their input channels being no multiple of 4: two, depthwise" in "".join(
        outcome.notes
    )
    assert ((module.three.weight.view(4, 2, 4, 3) != 0).sum(2) == 2).all()


def test_a_layer_that_is_emptied_is_named(network, context, tools) -> None:
    module = network("lenet")
    module[3].weight.data *= 1e-6
    _, outcome = prune(tools, module, context(), ratio=0.9)
    assert outcome.notes[1] == "no weight is left in 3: nothing passes through"


@pytest.mark.parametrize("allocation", ["global", "layer"])
def test_a_ratio_of_no_weight_prunes_nothing(network, context, tools, allocation: str) -> None:
    with pytest.raises(BuildError, match=r"a ratio of 1e-06 is less than one of the [\d,]+ weig"):
        prune(tools, network("lenet"), context(), ratio=1e-6, allocation=allocation)


def test_more_prunings_than_updates_are_refused(network, context, tools) -> None:
    with pytest.raises(BuildError, match="21 prunings do not fit into the 20 updates"):
        prune(
            tools,
            network("lenet"),
            context(),
            ratio=0.5,
            schedule="iterative",
            steps=21,
            finetune={"epochs": 2},
        )


TUNED: dict[str, Any] = {"finetune": {"epochs": 1}}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "the step lacks 'ratio' (a share) or 'pattern' (e.g. '2:4')"),
        ({"ratio": 0.5, "pattern": "2:4"}, "give it or 'ratio', not both"),
        ({"pattern": 124}, "write N:M in quotes, e.g. '2:4': unquoted, YAML reads 124"),
        ({"pattern": "half"}, "'half' is not of the form N:M, e.g. '2:4'"),
        ({"pattern": "2:6"}, "in '2:6', M is not 2, 4, 8 or 16"),
        ({"pattern": "4:4"}, "in '4:4', N is not from 1 to 3"),
        ({"pattern": "0:4"}, "in '0:4', N is not from 1 to 3"),
        ({"pattern": "2:4", "allocation": "global"}, "leave out 'allocation'"),
        ({"pattern": "2:4", "normalize": True}, "only 'allocation: global' does"),
        ({"pattern": "2:4", "schedule": "cubic", **TUNED}, "one-shot: leave out 'schedule'"),
        ({"ratio": 0.5, "allocation": "layer", "normalize": True}, "'allocation: global' does"),
        ({"ratio": 0.5, "schedule": "iterative"}, "prunes while training on: add 'finetune'"),
        ({"ratio": 0.5, "schedule": "cubic"}, "prunes while training on: add 'finetune'"),
        ({"ratio": 0.5, "steps": 3, **TUNED}, "'steps' needs 'schedule: iterative' or"),
        ({"ratio": 0.5, "schedule": "cubic", "steps": 1, **TUNED}, "steps"),
        ({"ratio": 0.5, "layers": []}, "layers"),
        ({"ratio": 0.5, "layers": [3.1]}, "write the name 3.1 in quotes: YAML reads a number"),
        ({"ratio": 0.5, "exclude": "head"}, "exclude"),
        *[
            ({"scope": "all_as_published", **more}, text)
            for more, text in (
                ({"pattern": "2:4"}, "takes a ratio, no pattern"),
                ({"ratio": 0.5, **TUNED}, "leave out 'schedule' and 'finetune'"),
                ({"ratio": 0.5, "schedule": "cubic"}, "leave out 'schedule' and 'finetune'"),
                ({"ratio": 0.5, "allocation": "layer"}, "leave out 'allocation' and 'normalize'"),
                ({"ratio": 0.5, "normalize": True}, "leave out 'allocation' and 'normalize'"),
                ({"ratio": 0.5, "layers": ["0"]}, "leave out 'layers' and 'exclude'"),
                ({"ratio": 0.5, "exclude": ["0"]}, "leave out 'layers' and 'exclude'"),
            )
        ],
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(
    values: dict[str, Any], text: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        validated(PRUNE.Options, values, RecipeError, where="here", noun="options")
    line = str(caught.value)
    assert text in line
    assert line.startswith("here: ")
    assert "\n" not in line


def test_a_recipe_may_name_layers_by_number(tools) -> None:
    (step,) = parse_yaml(
        "[{ratio: 0.5, layers: [0, 3.first]}]", RecipeError, where="here", noun="recipe"
    )
    assert tools.options_of("prune-unstructured", **step).layers == ["0", "3.first"]
    # Unquoted, YAML makes a time of day of a pattern.
    assert parse_yaml("2:4", RecipeError, where="here", noun="recipe") == 124


@pytest.mark.parametrize(
    "values",
    [
        {"ratio": 0.5},
        {"pattern": "2:4"},
        {"ratio": 0.5, "scope": "all_as_published"},
        {"ratio": 0.5, "schedule": "cubic", **TUNED},
    ],
)
def test_what_a_run_records_can_be_read_again(tools, values: dict[str, Any]) -> None:
    options = tools.options_of("prune-unstructured", **values)
    assert PRUNE.Options.model_validate(options.model_dump(mode="json")) == options


def test_fine_tuning_on_bases_answers_brings_the_function_back(data, network, context, tools):
    base = tools.run_module(network("lenet"), data.test_x)

    def distance(**options) -> float:
        module, _ = prune(tools, network("lenet"), context(), ratio=0.9, **options)
        return float(np.abs(tools.run_module(module, data.test_x) - base).mean())

    tuned = distance(finetune={"epochs": 5, "distill": True, "learning_rate": 0.01})
    assert tuned < 0.8 * distance()


def test_fine_tuning_on_base_needs_a_base(network, context, tools) -> None:
    with pytest.raises(BuildError, match="there is no base to distill from"):
        prune(
            tools,
            network("lenet"),
            context(base=None),
            ratio=0.5,
            finetune={"epochs": 1, "distill": True},
        )


def test_a_model_without_layers_has_nothing_to_prune(context, tools) -> None:
    with pytest.raises(BuildError, match="no convolution or dense layer to prune"):
        prune(tools, nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), context(), ratio=0.5)
