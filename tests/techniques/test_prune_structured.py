"""Whole channels go: as many as were asked for, everywhere but in the last layer."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from edgebench.errors import BuildError
from edgebench.models.costs import multiply_accumulates
from edgebench.pruning.sensitivity import ratios_within_loss
from edgebench.techniques.base import TECHNIQUES, weight_layers
from edgebench.training.loop import deterministic

PRUNE = TECHNIQUES.get("prune-structured")
NETWORKS = ["lenet", "resnet8", "mobilenetv1"]


def prune(tools, module: nn.Module, context, **options):
    return PRUNE().apply(module, tools.options_of("prune-structured", **options), context)


def widths(module: nn.Module) -> dict[str, int]:
    return {name: int(layer.weight.shape[0]) for name, layer in weight_layers(module)}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_channels_asked_for_go_and_the_head_stays(
    network, context, tools, name: str, ratio: float
) -> None:
    before = widths(network(name))
    module, outcome = prune(tools, network(name), context(), ratio=ratio)
    after = widths(module)
    *inner, head = before
    assert after[head] == before[head] == 10
    for layer in inner:
        assert after[layer] == pytest.approx(before[layer] * (1 - ratio), abs=1), layer
    sizes = [sum(p.numel() for p in m.parameters()) for m in (network(name), module)]
    gone = sizes[0] - sizes[1]
    assert f"{gone:,} of {sizes[0]:,} parameters went ({gone / sizes[0]:.1%})" in outcome.notes
    assert any(note.endswith(f"channels went ({ratio:.1%})") for note in outcome.notes)
    assert not module.training


@pytest.mark.parametrize("name", NETWORKS)
def test_the_pruned_network_is_made_again_from_its_record(
    data, network, context, tools, tmp_path: Path, name: str
) -> None:
    options = tools.options_of("prune-structured", ratio=0.5, finetune={"epochs": 1})
    pruned, outcome = PRUNE().apply(network(name), options, context())
    save_model(pruned, str(tmp_path / "weights.safetensors"))
    structure = json.loads(json.dumps(outcome.structure))
    again = PRUNE().restructure(network(name), options, structure, context())
    load_model(again, tmp_path / "weights.safetensors")
    wanted = tools.run_module(pruned, data.test_x)
    np.testing.assert_array_equal(tools.run_module(again, data.test_x), wanted)
    assert np.isfinite(wanted).all()


def test_a_chain_of_prunings_is_made_again(data, network, context, tools) -> None:
    options = [tools.options_of("prune-structured", ratio=r) for r in (0.25, 0.4)]
    module, records = network("resnet8"), []
    for one in options:
        module, outcome = PRUNE().apply(module, one, context())
        records.append(outcome.structure)
    again = network("resnet8")
    for one, record in zip(options, records, strict=True):
        again = PRUNE().restructure(again, one, record, context())
    again.load_state_dict(module.state_dict())
    np.testing.assert_array_equal(
        tools.run_module(again, data.test_x), tools.run_module(module, data.test_x)
    )


def test_the_weakest_channels_go(network, context, tools) -> None:
    for importance, norm in (("l1", 1), ("l2", 2)):
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 36, 10, bias=False)
        )
        with torch.no_grad():
            nn.init.zeros_(module[2].weight)
            # By the sum of magnitudes the first is stronger, by the sum of squares the second.
            module[0].weight[:] = torch.tensor([2.0, 0.0, 5.0, 6.0]).view(4, 1, 1, 1)
            module[0].weight[1, 0, 0, 0] = 8.0
        strongest = module[0].weight.detach().flatten(1).norm(p=norm, dim=1).argsort()[1:]
        kept = module[0].weight.detach()[sorted(strongest.tolist())].clone()
        pruned, _ = prune(tools, module, context(), ratio=0.25, importance=importance)
        assert torch.equal(pruned[0].weight.detach(), kept), importance


def test_channels_are_rounded_to_a_multiple(network, context, tools) -> None:
    wide = nn.Sequential(
        nn.Conv2d(1, 40, 3), nn.ReLU(), nn.Conv2d(40, 64, 3), nn.Flatten(), nn.Linear(1024, 10)
    )
    module, _ = prune(tools, deepcopy(wide), context(), ratio=0.3, round_to=8)
    *inner, head = widths(module).values()
    assert all(width % 8 == 0 for width in inner)
    assert all(width < was for width, was in zip(inner, (40, 64), strict=True))
    assert head == 10


def test_training_on_learns(data, network, context, tools) -> None:
    def accuracy(**options) -> float:
        module, _ = prune(tools, network("lenet"), context(), ratio=0.5, **options)
        return tools.accuracy(tools.run_module(module, data.test_x), data.test_y)

    tuned = accuracy(finetune={"epochs": 8, "learning_rate": 5e-3})
    assert tuned > accuracy() + 0.05


@pytest.mark.parametrize(
    ("module", "options", "text"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
            {"ratio": 0.5},
            "there is no channel to prune: the layers that give the answer keep theirs",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)),
            {"ratio": 0.5},
            "no convolution or dense layer to prune",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(36, 10)),
            {"ratio": 0.5},
            "0.0% of the channels went where 50% were asked for",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 10)),
            {"ratio": 0.25, "round_to": 8},
            "0.0% of the channels went where 25% were asked for",
        ),
    ],
)
def test_where_nothing_can_go_it_is_said(
    context, tools, module: nn.Module, options, text: str
) -> None:
    with pytest.raises(BuildError) as caught:
        prune(tools, module, context(), **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_crash_inside_torch_pruning_is_one_line(network, context, tools, monkeypatch) -> None:
    import torch_pruning

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a fake crash\nof two lines")

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", crash)
    with pytest.raises(BuildError, match="cannot follow this model: RuntimeError: a fake crash of"):
        prune(tools, network("lenet"), context(), ratio=0.5)


def shares(outcome) -> dict[str, float]:
    """What the notes say went, by the word for it."""
    found = {}
    for note in outcome.notes:
        for what in ("parameters", "multiply-accumulates", "channels"):
            if f" {what} " in note and " went (" in note:
                found[what] = float(note.split("(")[-1].rstrip("%)")) / 100
    return found


def test_a_channel_of_each_layer_stays(context, tools) -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 10))
    pruned, outcome = prune(tools, module, context(), ratio=0.99)
    assert pruned[0].out_channels == 1
    assert "7 of 8 channels went (87.5%)" in outcome.notes


@pytest.mark.parametrize(
    ("name", "allocation", "of"),
    [
        *(
            (name, allocation, of)
            for name in ("lenet", "resnet8")
            for allocation in ("local", "global", "sensitivity")
            for of in ("parameters", "macs")
        ),
        ("mobilenetv1", "local", "macs"),
    ],
)
def test_a_share_of_a_cost_goes_and_hardly_more(
    network, context, tools, name: str, allocation: str, of: str
) -> None:
    module, outcome = prune(
        tools, network(name), context(), ratio=0.4, of=of, allocation=allocation
    )
    word = {"macs": "multiply-accumulates", "parameters": "parameters"}[of]
    # Channels are whole: the narrow ones of the fixtures are a few percent each.
    assert 0.4 <= shares(outcome)[word] < 0.52
    first, now = widths(network(name)), widths(module)
    assert all(1 <= now[layer] <= first[layer] for layer in first)
    if of == "parameters":
        left = sum(p.numel() for p in module.parameters())
        assert left <= 0.6 * sum(p.numel() for p in network(name).parameters())


@pytest.mark.parametrize("importance", ["l1", "l2", "group-norm", "bn-scale", "lamp", "random"])
def test_one_ranking_prunes_mobilenet(network, context, tools, importance: str) -> None:
    """torch-pruning's own prunes nothing there with some of these, and says nothing."""
    before = network("mobilenetv1")
    module, outcome = prune(
        tools, before, context(), ratio=0.5, allocation="global", importance=importance
    )
    assert 0.5 <= shares(outcome)["channels"] < 0.51
    first, now = widths(network("mobilenetv1")), widths(module)
    assert all(now[layer] >= max(1, first[layer] // 10) for layer in first)
    gone = {1 - now[layer] / first[layer] for layer in list(first)[:-1]}
    assert max(gone) - min(gone) > 0.1


@pytest.mark.parametrize("importance", ["taylor", "hessian"])
def test_gradients_find_the_channel_nobody_listens_to(context, tools, importance: str) -> None:
    with deterministic(0):
        module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    with torch.no_grad():
        module[0].weight[2] *= 10
        module[3].weight.view(10, 4, 36)[:, 2] = 0.0
    kept = module[0].weight[[0, 1, 3]].clone()
    pruned, _ = prune(tools, deepcopy(module), context(), ratio=0.25, importance=importance)
    assert torch.equal(pruned[0].weight, kept)
    by_norm, _ = prune(tools, module, context(), ratio=0.25, importance="l2")
    assert not torch.equal(by_norm[0].weight, kept)


def test_the_seed_of_the_recipe_draws_random_channels(network, context, tools) -> None:
    def kept(seed: int) -> torch.Tensor:
        options = {"ratio": 0.5, "importance": "random"}
        return prune(tools, network("lenet"), context(seed=seed), **options)[0][0].weight

    assert torch.equal(kept(1), kept(1))
    assert not torch.equal(kept(1), kept(2))


def test_sensitivity_spares_the_layer_that_matters(data, network, context, tools) -> None:
    used = context(validation_x=data.test_x, validation_y=data.test_y, held_out=True)
    module, outcome = prune(tools, network("lenet"), used, ratio=0.4, allocation="sensitivity")
    (figure,) = outcome.figures
    assert set(figure.series) == {"0", "3", "7"}
    whole = tools.accuracy(tools.run_module(network("lenet"), data.test_x), data.test_y)
    assert {points[0] for points in figure.series.values()} == {(0.0, whole)}
    assert any("sensitivity was found on 100 examples held out" in n for n in outcome.notes)
    assert 0.4 <= shares(outcome)["channels"] < 0.46
    first, now = widths(network("lenet")), widths(module)
    gone = {layer: 1 - now[layer] / first[layer] for layer in figure.series}
    # The one that half its channels cost least loses most of them.
    half = {layer: dict(points)[0.5] for layer, points in figure.series.items()}
    assert gone[max(half, key=half.__getitem__)] == max(gone.values()) > min(gone.values())
    curves = {layer: list(points) for layer, points in figure.series.items()}
    for layer, ratio in ratios_within_loss(curves, first, 0.4).items():
        assert gone[layer] == pytest.approx(ratio, abs=1 / first[layer])


def fake_target(base: nn.Module, x: torch.Tensor, noise: list[float] | None = None):
    """A fake target, since a test must not depend on time: a constant, and the rest by MACs."""
    whole = multiply_accumulates(base, x[:1])
    asked: list[int] = []

    def measure(modules) -> list[float]:
        asked.append(len(modules))
        factor = noise[len(asked) - 1] if noise else 1.0
        return [factor * (0.2 + 0.8 * multiply_accumulates(m, x[:1]) / whole) for m in modules]

    return measure, asked


@pytest.mark.parametrize("allocation", ["local", "global"])
def test_latency_is_measured_on_the_target(data, network, context, tools, allocation: str) -> None:
    measure, asked = fake_target(network("resnet8"), torch.from_numpy(data.train_x))
    module, outcome = prune(
        tools,
        network("resnet8"),
        context(latency_ratios=measure),
        ratio=0.4,
        of="latency",
        allocation=allocation,
    )
    (reached,) = measure([module])
    assert 0.5 < reached <= 0.6
    assert asked[-2] == 1, "the result itself is measured at the end"
    assert len(asked) <= 5
    note = f"measured on the target at the end, the latency is {reached:.2f} of base's (0.60 was"
    assert any(text.startswith(note) for text in outcome.notes)
    options = tools.options_of("prune-structured", ratio=0.4, of="latency")
    assert PRUNE().measures(options)
    assert not PRUNE().measures(tools.options_of("prune-structured", ratio=0.4))


def test_a_latency_that_cannot_be_had_is_said(data, network, context, tools) -> None:
    options = {"ratio": 0.9, "of": "latency"}
    with pytest.raises(BuildError, match="the target cannot be reached to measure on"):
        prune(tools, network("lenet"), context(), **options)
    x = torch.from_numpy(data.train_x)
    measure, _ = fake_target(network("lenet"), x)
    with pytest.raises(BuildError, match=r"at most \d\d\.\d% of base's latency can go where 90%"):
        prune(tools, network("lenet"), context(latency_ratios=measure), **options)
    slower_at_last, _ = fake_target(network("lenet"), x, [1.0, 1.0, 1.2])
    with pytest.raises(BuildError, match=r"measured once more, the latency is 0\.\d\d of base's"):
        prune(
            tools, network("lenet"), context(latency_ratios=slower_at_last), ratio=0.4, of="latency"
        )


def test_a_cost_out_of_reach_is_said(network, context, tools) -> None:
    with pytest.raises(BuildError, match=r"at most \d+\.\d% of the parameters can go where 90% w"):
        prune(tools, network("lenet"), context(), ratio=0.9, of="parameters", layers=["0"])


def test_rounding_to_the_vectors_of_the_target(context, tools) -> None:
    with deterministic(0):
        wide = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 40, 3), nn.Flatten(), nn.Linear(640, 10)
        )
    pruned, outcome = prune(
        tools, deepcopy(wide), context(vector_width=16), ratio=0.4, round_to="auto"
    )
    # 24 of 40 stay and are rounded down; 3 of 6 fill no vector.
    assert [pruned[0].out_channels, pruned[2].out_channels] == [3, 16]
    assert any(n == "narrower than the 16 of a vector, and not rounded: '0'" for n in outcome.notes)
    pruned, _ = prune(tools, wide, context(vector_width=8), ratio=0.4, round_to="auto")
    assert [pruned[0].out_channels, pruned[2].out_channels] == [3, 24]
    assert PRUNE().measures(tools.options_of("prune-structured", ratio=0.4, round_to="auto"))


def test_iterations_share_the_epochs(network, context, tools, tmp_path: Path) -> None:
    epochs: list[tuple[int, int]] = []
    used = context(on_epoch=lambda done, total, _: epochs.append((done, total)), scratch=tmp_path)
    module, outcome = prune(
        tools, network("lenet"), used, ratio=0.5, iterations=2, finetune={"epochs": 3}
    )
    assert epochs == [(1, 1), (1, 2), (2, 2)]
    at_once, _ = prune(tools, network("lenet"), context(), ratio=0.5)
    assert widths(module) == widths(at_once)
    steps = [dict(step["channels"]) for step in outcome.structure["steps"]]
    first = widths(network("lenet"))
    for layer in ("0", "3", "7"):
        assert [len(step[layer]) for step in steps] == [first[layer] // 4] * 2
    # A killed run takes up each training where it stood: they have files of their own.
    assert len(list(tmp_path.iterdir())) == 2
    again = PRUNE().restructure(
        network("lenet"), tools.options_of("prune-structured", ratio=0.5), outcome.structure, used
    )
    assert widths(again) == widths(module)


def test_each_iteration_ranks_anew(network, context, tools, monkeypatch) -> None:
    """A fake training, which says which channel is worth least now."""
    from edgebench.techniques import prune_structured

    def weaken_the_strongest(module: nn.Module, *_: object, **__: object) -> None:
        strongest.append(int(module[0].weight.flatten(1).norm(dim=1).argmax()))
        with torch.no_grad():
            module[0].weight[strongest[-1]] *= 1e-3

    strongest: list[int] = []
    monkeypatch.setattr(prune_structured, "finetune", weaken_the_strongest)
    options = {"layers": ["0"], "iterations": 2, "finetune": {"epochs": 2}}
    # Of eight channels one goes in each iteration.
    _, outcome = prune(tools, network("lenet"), context(), ratio=0.25, **options)
    assert [step["channels"] for step in outcome.structure["steps"]][1] == [["0", [strongest[0]]]]


def test_only_the_layers_chosen_are_touched(network, context, tools) -> None:
    first = widths(network("resnet8"))

    def changed(**options) -> tuple[set[str], list[str]]:
        module, outcome = prune(tools, network("resnet8"), context(), ratio=0.5, **options)
        now = widths(module)
        return {layer for layer in first if now[layer] != first[layer]}, outcome.notes

    assert changed(layers=["4.first"])[0] == {"4.first"}
    layers, notes = changed(layers=["3.second"])
    assert layers == {"0", "3.second"}
    assert "tied to the layers chosen, and pruned with them: '0'" in notes
    assert changed(exclude=["3", "5"])[0] == {"4.first", "4.second", "4.shortcut"}
    with pytest.raises(BuildError, match=r"has no layer '4.frist'; did you mean '4.first'\?"):
        changed(layers=["4.frist"])
    with pytest.raises(BuildError, match="and so do those that 'layers' and 'exclude' spare"):
        changed(layers=["8"])


def test_a_depthwise_layer_is_spared_with_what_it_reads(network, context, tools) -> None:
    first = widths(network("mobilenetv1"))
    names = list(first)
    module, _ = prune(tools, network("mobilenetv1"), context(), ratio=0.5, exclude=[names[3]])
    now = widths(module)
    assert [now[n] == first[n] for n in names[:6]] == [False, False, True, True, False, False]


def test_bn_scale_needs_batch_normalisation(network, context, tools) -> None:
    with pytest.raises(BuildError, match="bn-scale cannot rank any layer: no batch normal"):
        prune(tools, network("lenet"), context(), ratio=0.5, importance="bn-scale")
    module, outcome = prune(
        tools, network("mobilenetv1"), context(), ratio=0.5, importance="bn-scale"
    )
    first, now = widths(network("mobilenetv1")), widths(module)
    *inner, hidden, _ = first
    assert now[hidden] == first[hidden]
    assert all(now[layer] < first[layer] for layer in inner)
    assert any(n.endswith(f"these keep their channels: '{hidden}'") for n in outcome.notes)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ratio": None}, "give a ratio, heads or both"),
        ({"ratio": None, "heads": 0.5, "of": "macs"}, "need a ratio"),
        ({"ratio": None, "heads": 0.5, "allocation": "sensitivity"}, "need a ratio"),
        ({"ratio": 0.5, "heads": 0.5, "importance": "bn-scale"}, "bn-scale cannot rank heads"),
        ({"ratio": 0.5, "iterations": 2}, "iterations train after each step: give finetune"),
        (
            {"ratio": 0.5, "iterations": 6, "finetune": {"epochs": 5}},
            "6 iterations cannot share 5 epochs",
        ),
        ({"ratio": 0.5, "layers": ["a"], "exclude": ["a"]}, "'a' is in layers and in exclude"),
        ({"ratio": 0.5, "layers": []}, "layers"),
        ({"ratio": 0.5, "round_to": 257}, "round_to"),
        ({"ratio": 0.5, "round_to": "always"}, "round_to"),
        ({"ratio": 0.5, "heads": 1.0}, "heads"),
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": 1.0}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
    ],
)
def test_options_that_make_no_sense(tools, options, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tools.options_of("prune-structured", **options)
