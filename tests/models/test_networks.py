"""The shipped networks are the ones of the papers: counted, run at every size, traced, exported."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from edgebench.errors import ModelError
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.models.base import MODELS
from edgebench.models.source import find_model
from edgebench.training.loop import deterministic

Shape = tuple[int, int, int]

MNIST, RGB, IMAGENET = (1, 28, 28), (3, 32, 32), (3, 224, 224)

# Name, options, input, classes, parameters, running statistics.
COUNTS: list[tuple[str, dict[str, Any], Shape, int, int, int]] = [
    ("lenet", {}, MNIST, 10, 225_034, 0),
    ("lenet", {}, RGB, 10, 315_722, 0),
    ("lenet", {}, RGB, 100, 327_332, 0),
    ("mobilenetv1", {}, RGB, 10, 3_736_906, 21_888),
    ("mobilenetv1", {}, RGB, 100, 3_783_076, 21_888),
    ("resnet8", {}, RGB, 10, 78_186, 480),
    ("resnet18", {}, RGB, 100, 11_220_132, 9_600),
    ("resnet18", {}, RGB, 10, 11_173_962, 9_600),
    ("resnet50", {}, RGB, 100, 24_634_980, 53_120),
    ("resnet50", {}, RGB, 10, 24_588_810, 53_120),
    ("vgg11", {}, RGB, 100, 129_176_036, 0),
    ("vgg11", {}, IMAGENET, 100, 129_176_036, 0),
    ("vgg11", {"head": "small"}, RGB, 100, 9_797_092, 0),
    ("vgg16", {}, RGB, 100, 134_670_244, 0),
    # As published for ImageNet.
    ("vgg16", {}, IMAGENET, 1000, 138_357_544, 0),
    ("vgg16", {"head": "small"}, RGB, 100, 15_291_300, 0),
    ("vgg19", {}, RGB, 100, 139_979_940, 0),
    ("vgg19", {"head": "small"}, RGB, 100, 20_600_996, 0),
    ("vgg16-bn", {}, RGB, 100, 15_299_748, 8_448),
    ("vgg16-bn", {"head": "classic"}, RGB, 100, 134_678_692, 8_448),
    ("vit", {}, RGB, 100, 822_756, 0),
    ("vit", {}, RGB, 10, 811_146, 0),
    ("dscnn", {}, RGB, 10, 82_090, 2_400),
    ("convnet", {}, RGB, 10, 77_866, 576),
    ("teacher-large-mnist", {}, MNIST, 10, 2_560_906, 0),
    ("teacher-small-mnist", {}, MNIST, 10, 1_433_610, 0),
    ("teacher-large-fashion-mnist", {}, MNIST, 10, 2_339_850, 0),
    ("teacher-small-fashion-mnist", {}, MNIST, 10, 1_558_538, 0),
    ("teacher-large-cifar10", {}, RGB, 10, 26_898_250, 4_192),
    ("teacher-small-cifar10", {}, RGB, 10, 5_674_634, 0),
    ("student-mnist", {}, MNIST, 10, 20_490, 0),
    ("student-fashion-mnist", {}, MNIST, 10, 50_186, 0),
    ("student-baseline", {}, MNIST, 10, 7_850, 0),
    ("student-baseline", {}, RGB, 10, 30_730, 0),
]

# The smallest edge of an image, where a network has one.
SMALLEST = {
    "lenet": 4,
    "resnet18": 5,
    "resnet50": 17,
    "vgg11": 32,
    "vgg16": 32,
    "vgg19": 32,
    "vgg16-bn": 32,
    "dscnn": 5,
    "convnet": 3,
    "teacher-large-mnist": 5,
    "teacher-small-mnist": 3,
    "teacher-large-fashion-mnist": 9,
    "teacher-small-fashion-mnist": 5,
    "teacher-large-cifar10": 3,
    "teacher-small-cifar10": 3,
    "student-mnist": 3,
    "student-fashion-mnist": 3,
}

WITH_WIDTH = [
    n for n, factory in MODELS.items() if "width" in inspect.signature(factory).parameters
]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def statistics(module: nn.Module) -> int:
    """Running means and variances, without the count of batches."""
    return sum(b.numel() for b in module.buffers() if b.dim())


def layers(module: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def small(name: str, shape: Shape, **options: Any) -> nn.Module:
    """The network with 7 classes at a small width, ready to answer."""
    width = {"width": 0.1} if name in WITH_WIDTH else {}
    return MODELS.get(name)(shape, 7, **width, **options).eval()


def an_image_size(name: str) -> Shape:
    """A small input that the network takes, and not a square."""
    edge = max(SMALLEST.get(name, 8), 8)
    return (3, edge, edge + 4)


@pytest.mark.parametrize(("name", "options", "shape", "classes", "count", "running"), COUNTS)
def test_the_networks_have_the_published_parameters(
    name: str, options: dict[str, Any], shape: Shape, classes: int, count: int, running: int
) -> None:
    with torch.device("meta"):
        module = MODELS.get(name)(shape, classes, **options)
    assert parameters(module) == count
    assert statistics(module) == running


@pytest.mark.parametrize("name", MODELS.names())
def test_every_network_says_how_many_parameters_it_has(name: str) -> None:
    counted = [count for known, *_, count, _ in COUNTS if known == name]
    assert any(f"{count:,}" in (MODELS.get(name).__doc__ or "") for count in counted)


def test_counts_that_include_the_running_statistics() -> None:
    totals = {(name, classes): n + running for name, _, _, classes, n, running in COUNTS}
    assert totals["resnet8", 10] == 78_666
    # 94.18 MiB of float32, as the paper has it.
    assert round(totals["resnet50", 100] * 4 / 2**20, 2) == 94.18
    assert totals["teacher-large-cifar10", 10] == 26_902_442


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 44), (4, 64, 64)])
def test_every_network_takes_every_size_above_its_smallest(name: str, shape: Shape) -> None:
    if min(shape[1:]) < SMALLEST.get(name, 1):
        with pytest.raises(ModelError, match=f"{name} needs images of at least"):
            small(name, shape)
        return
    module = small(name, shape)
    with torch.no_grad():
        answer = module(torch.rand(3, *shape))
    assert answer.shape == (3, 7)
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize(("name", "edge"), SMALLEST.items())
def test_the_smallest_image(name: str, edge: int) -> None:
    with torch.no_grad():
        assert small(name, (1, edge, edge + 3))(torch.rand(2, 1, edge, edge + 3)).shape == (2, 7)
    for height, breadth in ((edge - 1, edge), (edge + 3, edge - 1)):
        with pytest.raises(ModelError) as caught:
            small(name, (1, height, breadth))
        wanted = f"needs images of at least {edge}×{edge} pixels, not {height}×{breadth}"
        assert caught.value.line() == f"{name} {wanted}"


@pytest.mark.parametrize("name", WITH_WIDTH)
def test_width_scales_the_channels_and_leaves_one_at_least(name: str) -> None:
    factory = MODELS.get(name)
    with torch.device("meta"):
        sizes = [
            parameters(factory((1, 32, 32), 10, width)) for width in (0.001, 0.25, 0.5, 1.0, 1.5)
        ]
    assert sizes == sorted(set(sizes))
    # Weights grow with the square of the channels, the first and last layers linearly.
    assert sizes[3] / 4.3 < sizes[2] < sizes[3] / 2


def test_only_the_network_without_channels_has_no_width() -> None:
    assert set(MODELS.names()) - set(WITH_WIDTH) == {"student-baseline"}


@pytest.mark.parametrize("name", WITH_WIDTH)
@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf"), "half", True, None])
def test_a_width_that_is_none_is_refused(name: str, width: object) -> None:
    with pytest.raises(ModelError, match="width must be a number above 0"):
        MODELS.get(name)((1, 32, 32), 10, width)


def test_lenet_pads_small_images_alone() -> None:
    def padding(size: int) -> list[object]:
        module = MODELS.get("lenet")((1, size, size), 10)
        return [layer.padding for layer in module if isinstance(layer, nn.Conv2d)]

    assert padding(8) == padding(9) == [(1, 1), (1, 1)]
    assert padding(10) == padding(28) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("name", MODELS.names())
def test_the_seed_alone_decides_the_initial_weights(name: str) -> None:
    def make(seed: int) -> torch.Tensor:
        with deterministic(seed):
            module = small(name, an_image_size(name))
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))


@pytest.mark.parametrize("name", MODELS.names())
def test_every_network_can_be_traced_for_any_batch(name: str) -> None:
    shape = an_image_size(name)
    module = small(name, shape)
    traced = fx.symbolic_trace(module)
    for batch in (1, 3):
        x = torch.rand(batch, *shape)
        with torch.no_grad():
            torch.testing.assert_close(traced(x), module(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet50", {}),
        ("vgg11", {}),
        ("vit", {"depth": 2}),
        ("dscnn", {"residual": True}),
        ("convnet", {}),
        ("convnet", {"residual": False}),
        ("teacher-large-cifar10", {}),
    ],
)
def test_a_network_of_each_family_runs_as_onnx(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    shape = an_image_size(name)
    examples = np.random.default_rng(0).standard_normal((5, *shape), dtype=np.float32)
    with deterministic(0):
        module = small(name, shape, **options)
    # Raises where ONNX Runtime answers otherwise than torch, at batch 1 or 5.
    export_onnx(module, examples, tmp_path / "m.onnx", opset=21)


@pytest.mark.parametrize("head", ["classic", "small"])
@pytest.mark.parametrize("size", [32, 224])
def test_both_heads_of_vgg_take_small_and_large_images(head: str, size: int) -> None:
    module = MODELS.get("vgg11")((3, size, size), 7, 0.1, head=head).eval()
    with torch.no_grad():
        assert module(torch.rand(2, 3, size, size)).shape == (2, 7)
    assert [layer.p for layer in layers(module, nn.Dropout)] == [0.5, 0.5]
    edge = 7 if head == "classic" else 1
    assert layers(module, nn.Linear)[0].in_features == 51 * edge**2


def test_vgg_refuses_another_head() -> None:
    with pytest.raises(ModelError, match="head must be 'classic' or 'small', not 'large'"):
        MODELS.get("vgg11")(RGB, 10, head="large")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg11", {}),
        ("vgg19", {"head": "small"}),
        ("teacher-large-mnist", {}),
        ("teacher-large-fashion-mnist", {}),
    ],
)
def test_plain_networks_start_with_answers_that_depend_on_the_image(
    name: str, options: dict[str, Any]
) -> None:
    with deterministic(0):
        module = MODELS.get(name)(RGB, 10, 0.25, **options).eval()
        images = torch.randn(16, *RGB)
    with torch.no_grad():
        answers = module(images)
    # With torch's default weights it is .005 in the shallowest of them and 4e-9 in the deepest.
    assert answers.std(dim=0).mean() > 0.02


@pytest.mark.parametrize(
    ("name", "convolutions", "dense", "dropout"),
    [
        ("teacher-large-mnist", 3, 3, True),
        ("teacher-small-mnist", 2, 1, False),
        ("teacher-large-fashion-mnist", 4, 4, True),
        ("teacher-small-fashion-mnist", 3, 1, False),
        ("teacher-large-cifar10", 8, 3, True),
        # The paper lists one; its count of parameters needs a hidden one.
        ("teacher-small-cifar10", 3, 2, False),
        ("student-mnist", 2, 1, False),
        ("student-fashion-mnist", 2, 1, False),
        ("student-baseline", 0, 1, False),
    ],
)
def test_teachers_and_students_have_the_published_layers(
    name: str, convolutions: int, dense: int, dropout: bool
) -> None:
    with torch.device("meta"):
        module = MODELS.get(name)()
    assert len(layers(module, nn.Conv2d)) == convolutions
    assert len(layers(module, nn.Linear)) == dense
    assert bool(layers(module, nn.Dropout)) == dropout
    normalised = bool(layers(module, nn.BatchNorm1d, nn.BatchNorm2d))
    assert normalised == (name == "teacher-large-cifar10")


def test_attention_is_torchs_own() -> None:
    with deterministic(0):
        attention = next(m for m in small("vit", RGB, dim=240).modules() if hasattr(m, "qkv"))
        x = torch.randn(2, 5, 24)
    wanted = nn.MultiheadAttention(24, 4, batch_first=True)
    wanted.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.proj.weight,
            "out_proj.bias": attention.proj.bias,
        }
    )
    with torch.no_grad():
        torch.testing.assert_close(attention(x), wanted(x, x, x)[0])


def test_a_head_can_be_taken_out_of_attention() -> None:
    with deterministic(0):
        attention = next(m for m in small("vit", RGB, dim=240).modules() if hasattr(m, "qkv"))
        nn.init.normal_(attention.qkv.weight)
        x = torch.randn(2, 5, 24)
    heads, head_dim = attention.num_heads, attention.head_dim
    assert (heads, head_dim) == (4, 6)
    kept = torch.ones(heads, head_dim, dtype=torch.bool)
    kept[1] = False
    with torch.no_grad():
        before = attention(x)
        # What remains where the projection ignores the head.
        attention.proj.weight[:, ~kept.flatten()] = 0
        wanted = attention(x)
        attention.qkv.weight = nn.Parameter(attention.qkv.weight[kept.flatten().repeat(3)])
        attention.qkv.bias = nn.Parameter(attention.qkv.bias[kept.flatten().repeat(3)])
        attention.proj.weight = nn.Parameter(attention.proj.weight[:, kept.flatten()])
        attention.num_heads = 3
        torch.testing.assert_close(attention(x), wanted)
    assert not torch.allclose(before, wanted)


def test_the_channels_of_vit_can_be_pruned() -> None:
    module: Any = small("vit", RGB, dim=240)
    attentions = [block.attention for block in module.blocks]
    with warnings.catch_warnings():
        # It says that it follows the class token and the positions, as it should.
        warnings.simplefilter("ignore")
        torch_pruning.BasePruner(
            module,
            torch.rand(2, *RGB),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[module.classifier],
            num_heads={attention.qkv: attention.num_heads for attention in attentions},
            # Its defaults are shared between pruners.
            in_channel_groups={},
            out_channel_groups={},
        ).step()
    for attention in attentions:
        assert attention.qkv.out_features == 3 * 12
        attention.head_dim = 3
    assert module.positions.shape == (1, 65, 12)
    with torch.no_grad():
        assert module(torch.rand(2, *RGB)).shape == (2, 7)


def test_the_options_of_vit() -> None:
    def vit(shape: Shape = RGB, **options: Any) -> Any:
        return MODELS.get("vit")(shape, 10, **options)

    assert vit(patch=8).positions.shape == (1, 17, 128)
    assert vit((1, 8, 12), patch=4).positions.shape == (1, 7, 128)
    assert len(vit(depth=3).blocks) == 3
    attention = vit(dim=96, heads=6).blocks[0].attention
    assert (attention.num_heads, attention.head_dim) == (6, 16)
    assert attention.qkv.out_features == 3 * 96
    # Width takes from every head alike.
    attention = vit(width=0.5).blocks[0].attention
    assert (attention.num_heads, attention.head_dim) == (4, 16)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"patch": 5}, "vit cuts images into patches of 5×5 pixels, which does not go into 32×32"),
        ({"dim": 130}, "vit's dim of 130 cannot be divided by its 4 heads"),
        ({"patch": 0}, "patch must be a whole number of at least 1, not 0"),
        ({"depth": 1.5}, "depth must be a whole number of at least 1, not 1.5"),
        ({"heads": True}, "heads must be a whole number of at least 1, not True"),
    ],
)
def test_what_vit_refuses(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError) as caught:
        MODELS.get("vit")(RGB, 10, **options)
    assert caught.value.line().startswith(line)


def test_dscnn_is_built_as_a_recipe_asks() -> None:
    asked = {"stem": 8, "stem_stride": 1, "widths": [16, 24, 24], "strides": [2, 2, 1]}
    module = find_model("dscnn", weights=None, options=asked).build((3, 16, 16), 10)
    convolutions = layers(module, nn.Conv2d)
    assert [c.out_channels for c in convolutions] == [8, 8, 16, 16, 24, 24, 24]
    assert [c.stride[0] for c in convolutions] == [1, 2, 1, 2, 1, 1, 1]
    assert [c.groups for c in convolutions] == [1, 8, 1, 16, 1, 24, 1]
    assert len(layers(module, nn.BatchNorm2d)) == len(layers(module, nn.ReLU)) == 7
    assert all(c.bias is None for c in convolutions)
    assert layers(module, nn.Linear)[0].in_features == 24


def test_dscnn_adds_the_input_where_shapes_allow() -> None:
    asked = {"stem": 16, "widths": [16, 16, 24, 24], "strides": [1, 2, 1, 1], "width": 1.0}
    plain = MODELS.get("dscnn")(RGB, 10, **asked).eval()
    beside = MODELS.get("dscnn")(RGB, 10, residual=True, **asked).eval()
    blocks = [(a, b) for a, b in zip(plain, beside, strict=True) if hasattr(a, "pointwise")]
    added = []
    for without, block in blocks:
        # Nothing comes out of the convolutions: what is left is the input, where it is added.
        for module in (without, block):
            nn.init.zeros_(module.pointwise[1].weight)
        x = torch.rand(2, block.depthwise[0].in_channels, 8, 8)
        with torch.no_grad():
            assert not without(x).any()
            answer = block(x)
        added.append(bool(answer.any()))
        assert not added[-1] or torch.equal(answer, x)
    assert added == [True, False, False, True]


def test_convnet_is_built_as_a_recipe_asks() -> None:
    asked = {"stem": 8, "stem_stride": 1, "widths": [16, 24], "strides": [2, 1]}
    beside = find_model("convnet", weights=None, options=asked).build((3, 16, 16), 10)
    plain = MODELS.get("convnet")((3, 16, 16), 10, residual=False, **asked)
    shapes = [(c.out_channels, c.stride[0], c.kernel_size[0]) for c in layers(plain, nn.Conv2d)]
    assert shapes == [(8, 1, 3), (16, 2, 3), (24, 1, 3)]
    shapes = [(c.out_channels, c.stride[0], c.kernel_size[0]) for c in layers(beside, nn.Conv2d)]
    assert shapes == [
        *((8, 1, 3), (16, 2, 3), (16, 1, 3), (16, 2, 1)),
        *((24, 1, 3), (24, 1, 3), (24, 1, 1)),
    ]
    for module in (plain, beside):
        assert len(layers(module, nn.BatchNorm2d)) == len(layers(module, nn.Conv2d))
        assert layers(module, nn.Linear)[0].in_features == 24


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"widths": [8]}, "widths names 1 stages and strides 2; give both lists the same length"),
        ({"residual": 1}, "residual must be true or false, not 1"),
        ({"stem_stride": 3}, "stem_stride must be 1 or 2, not 3"),
    ],
)
def test_what_convnet_refuses(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError) as caught:
        MODELS.get("convnet")(RGB, 10, **options)
    assert caught.value.line() == line


@pytest.mark.parametrize("name", ["dscnn", "convnet"])
def test_a_student_costs_what_it_says(name: str) -> None:
    module = MODELS.get(name)().eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.rand(1, *RGB))
    # Two operations for a multiplication with its addition.
    assert f"{counter.get_total_flops() / 2e6:.1f} million MACs" in (MODELS.get(name).__doc__ or "")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"widths": [8, 8]},
            "widths names 2 blocks and strides 6; give both lists the same length",
        ),
        ({"strides": [1, 1, 3, 1, 1, 1]}, "each of strides must be 1 or 2, not 3"),
        ({"strides": [True] * 6}, "each of strides must be 1 or 2, not True"),
        (
            {"widths": [8, 0, 8, 8, 8, 8]},
            "each of widths must be a whole number of at least 1, not 0",
        ),
        ({"widths": "8"}, "widths must be a list, not '8'"),
        ({"strides": 2}, "strides must be a list, not 2"),
        ({"stem": 0.5}, "stem must be a whole number of at least 1, not 0.5"),
        ({"stem_stride": 4}, "stem_stride must be 1 or 2, not 4"),
        ({"residual": "yes"}, "residual must be true or false, not 'yes'"),
        ({"strides": [2] * 6}, "dscnn needs images of at least 65×65 pixels, not 32×32"),
    ],
)
def test_what_dscnn_refuses(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError) as caught:
        MODELS.get("dscnn")(RGB, 10, **options)
    assert caught.value.line() == line
