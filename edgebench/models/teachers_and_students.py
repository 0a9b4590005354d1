"""Teachers and students of "Controlling the Quality of Distillation" (Vats and Crandall, 2021).

The paper gives each network's count of convolutions, dense layers and parameters, whether it has
dropout and batch normalisation, and no more. Kernels are 3×3, padded, here; channels, dense layers
and poolings are chosen so that the published count comes out exactly: the larger the network, the
less sure it is that the authors' was the same. Poolings round odd sizes up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgebench.models.base import MODELS, scaled
from edgebench.models.checks import check_image
from edgebench.models.initial_weights import he_initialise

if TYPE_CHECKING:
    from torch import nn

POOL = "pool"
# The paper names dropout and no rate; half is Srivastava et al.'s (2014) for dense layers.
DROPOUT = 0.5


@MODELS.register("teacher-large-mnist")
def teacher_large_mnist(
    input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Large teacher for MNIST, 3 convolutions and 3 dense layers: 2,560,906 parameters.

    Convolutions 128, 256, 256, each pooled; dense 384, 256 with dropout, and the classes. The
    channels and dense layers are inferred from the count. `width` scales all but the classes.
    Images have 5×5 pixels or more.
    """
    layout = (128, POOL, 256, POOL, 256, POOL)
    return _network(
        "teacher-large-mnist", layout, input_shape, classes, width, hidden=(384, 256), dropout=True
    )


@MODELS.register("teacher-small-mnist")
def teacher_small_mnist(
    input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Small teacher for MNIST, 2 convolutions and a dense layer: 1,433,610 parameters.

    Convolutions 256, 512, each pooled. `width` scales the channels. Images have 3×3 pixels or more.
    """
    layout = (256, POOL, 512, POOL)
    return _network("teacher-small-mnist", layout, input_shape, classes, width)


@MODELS.register("teacher-large-fashion-mnist")
def teacher_large_fashion_mnist(
    input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Large teacher for Fashion-MNIST, 4 convolutions and 4 dense layers: 2,339,850 parameters.

    Convolutions 64, 128, 256, 384, each pooled; dense 512, 384, 256 with dropout, and the classes.
    The channels and dense layers are inferred from the count. `width` scales all but the classes.
    Images have 9×9 pixels or more.
    """
    layout = (64, POOL, 128, POOL, 256, POOL, 384, POOL)
    return _network(
        "teacher-large-fashion-mnist",
        layout,
        input_shape,
        classes,
        width,
        hidden=(512, 384, 256),
        dropout=True,
    )


@MODELS.register("teacher-small-fashion-mnist")
def teacher_small_fashion_mnist(
    input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Small teacher for Fashion-MNIST, 3 convolutions and a dense layer: 1,558,538 parameters.

    Convolutions 128, 256, 512, each pooled. `width` scales the channels. Images have 5×5 pixels or
    more.
    """
    layout = (128, POOL, 256, POOL, 512, POOL)
    return _network("teacher-small-fashion-mnist", layout, input_shape, classes, width)


@MODELS.register("teacher-large-cifar10")
def teacher_large_cifar10(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Large teacher for CIFAR-10, 8 convolutions and 3 dense layers: 26,902,442 numbers.

    They are 26,898,250 parameters and 4,192 running statistics, counted together as Keras does.
    Convolutions 16, 32, 64, 64, pooled, and 128, 128, 256, 384, pooled; dense 1,024 and 256 with
    dropout, and the classes; batch normalisation after each convolution and the first dense layer.
    The channels, dense layers and the place of normalisation are inferred from the count, which
    other choices might give as well. `width` scales all but the classes. Images have 3×3 pixels or
    more.
    """
    layout = (16, 32, 64, 64, POOL, 128, 128, 256, 384, POOL)
    return _network(
        "teacher-large-cifar10",
        layout,
        input_shape,
        classes,
        width,
        hidden=(1024, 256),
        dropout=True,
        norm=True,
    )


@MODELS.register("teacher-small-cifar10")
def teacher_small_cifar10(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Small teacher for CIFAR-10, 3 convolutions and 2 dense layers: 5,674,634 parameters.

    Convolutions 128, 256, 512, the first two pooled; dense 128, and the classes. The paper lists
    one dense layer: no such network of usual channels has the published count, and with a hidden
    layer of 128 the convolutions of Fashion-MNIST's small teacher have it. `width` scales all but
    the classes. Images have 3×3 pixels or more.
    """
    layout = (128, POOL, 256, POOL, 512)
    return _network("teacher-small-cifar10", layout, input_shape, classes, width, hidden=(128,))


@MODELS.register("student-mnist")
def student_mnist(
    input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """General student for MNIST, 2 convolutions and a dense layer: 20,490 parameters.

    Convolutions 16, 32, each pooled. `width` scales the channels. Images have 3×3 pixels or more.
    """
    return _network("student-mnist", (16, POOL, 32, POOL), input_shape, classes, width)


@MODELS.register("student-fashion-mnist")
def student_fashion_mnist(
    input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """General student for Fashion-MNIST, 2 convolutions and a dense layer: 50,186 parameters.

    Convolutions 32, 64, each pooled. `width` scales the channels. Images have 3×3 pixels or more.
    """
    return _network("student-fashion-mnist", (32, POOL, 64, POOL), input_shape, classes, width)


@MODELS.register("student-baseline")
def student_baseline(
    input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10
) -> nn.Module:
    """Baseline student, one dense layer: 7,850 parameters on MNIST's shape, 30,730 on CIFAR-10's.

    It has nothing between the pixels and the classes that a width could scale.
    """
    return _network("student-baseline", (), input_shape, classes, 1.0)


def _network(
    name: str,
    layout: Sequence[int | str],
    input_shape: tuple[int, int, int],
    classes: int,
    width: float,
    *,
    hidden: Sequence[int] = (),
    dropout: bool = False,
    norm: bool = False,
) -> nn.Module:
    """Convolutions and poolings as `layout` has them, `hidden` dense layers, and the classes."""
    from torch import nn

    check_image(name, input_shape, layout.count(POOL))
    current, height, breadth = input_shape
    layers: list[nn.Module] = []
    for entry in layout:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            height, breadth = (height + 1) // 2, (breadth + 1) // 2
            continue
        outputs = scaled(entry, width)
        layers.append(nn.Conv2d(current, outputs, 3, padding=1))
        layers += [nn.BatchNorm2d(outputs)] if norm else []
        layers.append(nn.ReLU())
        current = outputs
    layers.append(nn.Flatten())
    current *= height * breadth
    for index, units in enumerate(hidden):
        outputs = scaled(units, width)
        layers.append(nn.Linear(current, outputs))
        layers += [nn.BatchNorm1d(outputs)] if norm and index == 0 else []
        layers.append(nn.ReLU())
        layers += [nn.Dropout(DROPOUT)] if dropout else []
        current = outputs
    layers.append(nn.Linear(current, classes))
    return he_initialise(nn.Sequential(*layers))
