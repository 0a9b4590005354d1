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

import torch
from safetensors.torch import save_model

from benchmarks.compression.setting import DATA, MODEL, NETWORKS, VALIDATION, training
from edgebench.data import load
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.hashing import named_seed
from edgebench.models.base import MODELS
from edgebench.training.loop import deterministic, fit, predict
from edgebench.training.losses import cross_entropy

OPSET = 21


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
        _train(name, options.out, options.checkpoints / f"{name}.pt")
    return 0


def _train(name: str, out: Path, checkpoint: Path) -> None:
    data = load(DATA, validation=VALIDATION, seed=0)
    settings = training()
    with deterministic(named_seed(0, name, "init")):
        module = MODELS.get(MODEL)(data.input_shape, data.classes)
    start = time.perf_counter()

    def on_epoch(done: int, total: int, loss: float) -> None:
        seconds = time.perf_counter() - start
        print(f"{name}: epoch {done} of {total}, loss {loss:.4f}, {seconds:.0f} s", flush=True)

    fit(
        module,
        torch.from_numpy(data.train_x),
        cross_entropy(torch.from_numpy(data.train_y)),
        settings,
        seed=named_seed(0, name, "order"),
        what=name,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
    )
    save_model(module, str(out / f"{name}.safetensors"))
    export_onnx(module, data.test_x[:64], out / f"{name}.onnx", opset=OPSET)
    answers = predict(module, torch.from_numpy(data.test_x)).argmax(1).numpy()
    record = {
        "name": name,
        "model": MODEL,
        "training": settings.model_dump(mode="json"),
        "test_accuracy": float((answers == data.test_y).mean()),
        "seconds": time.perf_counter() - start,
    }
    (out / f"{name}.json").write_text(json.dumps(record, indent=1))
    print(f"{name}: test accuracy {record['test_accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
