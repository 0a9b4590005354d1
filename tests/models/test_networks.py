"""The shipped networks are the ones of the papers: counted, and run at every size."""

from __future__ import annotations

import pytest
import torch

from edgebench.errors import ModelError
from edgebench.models.base import MODELS
from edgebench.training.loop import deterministic


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "count"),
    [
        ("lenet", (1, 28, 28), 10, 225_034),
        ("lenet", (3, 32, 32), 10, 315_722),
        ("lenet", (3, 32, 32), 100, 327_332),
        ("mobilenetv1", (3, 32, 32), 10, 3_736_906),
        ("mobilenetv1", (3, 32, 32), 100, 3_783_076),
        ("resnet8", (3, 32, 32), 10, 78_186),
    ],
)
def test_the_networks_have_the_published_parameters(
    name: str, shape: tuple[int, int, int], classes: int, count: int
) -> None:
    assert parameters(MODELS.get(name)(shape, classes)) == count


def test_resnet8_is_mlperf_tinys_count_with_running_statistics() -> None:
    module = MODELS.get("resnet8")()
    statistics = sum(b.numel() for b in module.buffers() if b.dim())
    assert parameters(module) + statistics == 78_666


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 45), (4, 64, 64)])
def test_every_network_takes_every_size(name: str, shape: tuple[int, int, int]) -> None:
    module = MODELS.get(name)(shape, 7, 0.25).eval()
    with torch.no_grad():
        answer = module(torch.rand(3, *shape))
    assert answer.shape == (3, 7)
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize("name", MODELS.names())
def test_width_scales_the_channels_and_leaves_one_at_least(name: str) -> None:
    factory = MODELS.get(name)
    sizes = [parameters(factory((1, 16, 16), 10, width)) for width in (0.001, 0.25, 0.5, 1.0, 1.5)]
    assert sizes == sorted(set(sizes))
    # Weights grow with the square of the channels, the first and last layers linearly.
    assert sizes[3] / 4.3 < sizes[2] < sizes[3] / 2


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf"), "half", True, None])
def test_a_width_that_is_none_is_refused(name: str, width: object) -> None:
    with pytest.raises(ModelError, match="width must be a number above 0"):
        MODELS.get(name)((1, 16, 16), 10, width)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (3, 28), (28, 2)])
def test_lenet_says_how_small_an_image_may_be(size: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="at least 4×4 pixels"):
        MODELS.get("lenet")((1, *size), 10)


def test_lenet_pads_small_images_alone() -> None:
    def padding(size: int) -> list[object]:
        module = MODELS.get("lenet")((1, size, size), 10)
        return [layer.padding for layer in module if isinstance(layer, torch.nn.Conv2d)]

    assert padding(8) == padding(9) == [(1, 1), (1, 1)]
    assert padding(10) == padding(28) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("name", MODELS.names())
def test_the_seed_alone_decides_the_initial_weights(name: str) -> None:
    def make(seed: int) -> torch.Tensor:
        with deterministic(seed):
            module = MODELS.get(name)((1, 8, 8), 10, 0.25)
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))
