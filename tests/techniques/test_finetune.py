"""What training on takes from base's training, whichever technique asks for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgebench.errors import BuildError
from edgebench.techniques.base import TECHNIQUES
from edgebench.training_settings import Training

TRAINING_ON = [
    ("prune-unstructured", {"ratio": 0.5, "finetune": {"epochs": 1}}),
    ("qat", {"bits": 8, "epochs": 1}),
]


@pytest.mark.parametrize(("name", "options"), TRAINING_ON)
def test_the_order_has_its_own_seed(
    network, context, tools, name: str, options: dict[str, Any]
) -> None:
    def trained(**seeds: int) -> list[torch.Tensor]:
        training = Training(epochs=1, batch_size=32, learning_rate=5e-3, **seeds)
        technique = TECHNIQUES.get(name)()
        module, _ = technique.apply(
            network("lenet"), tools.options_of(name, **options), context(training=training)
        )
        return list(module.state_dict().values())

    def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    plain = trained()
    assert same(plain, trained(init_seed=3))
    assert same(trained(order_seed=3), trained(order_seed=3))
    assert not same(plain, trained(order_seed=3))
    assert not same(trained(order_seed=4), trained(order_seed=3))


@pytest.mark.parametrize(
    ("name", "options", "left_out"),
    [
        ("low-rank", {"energy": 0.9, "finetune": {"epochs": 1}}, "finetune"),
        ("qat", {"epochs": 1, "dtype": "int8"}, "qat"),
        ("qat", {"epochs": 1, "dtype": "fp16"}, "qat"),
    ],
)
def test_without_labels_it_is_said_what_to_leave_out(
    network, context, tools, name: str, options: dict[str, Any], left_out: str
) -> None:
    used = context(train_y=np.empty(0, np.int64))
    with pytest.raises(BuildError, match=rf"no labels to learn from; leave out '{left_out}'$"):
        TECHNIQUES.get(name)().apply(network("lenet"), tools.options_of(name, **options), used)
