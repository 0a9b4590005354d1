"""Weights are read as data: what would run code is refused, and did not run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgebench.errors import ModelError
from edgebench.models.base import MODELS
from edgebench.models.source import load_weights
from edgebench.training.loop import deterministic


def network(seed: int = 0, classes: int = 10) -> nn.Module:
    with deterministic(seed):
        return MODELS.get("lenet")((1, 8, 8), classes, 0.25)


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_weights(network(), path)
    line = str(caught.value)
    assert "\n" not in line
    assert "\x1b" not in line
    assert line.startswith(f"{path}: ")
    return line


def save_torch(state: Any, path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: Any, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_wrapped(key: str) -> Callable[[Any, Path], None]:
    return lambda state, path: torch.save({key: state, "epoch": 3}, path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("w.safetensors", save_file),
        ("w.pt", save_torch),
        ("w.pth", save_legacy),
        ("w.ckpt", save_wrapped("state_dict")),
        ("w.tar", save_wrapped("model_state_dict")),
        ("w.bin", save_wrapped("model")),
    ],
)
def test_weights_are_loaded(tmp_path: Path, name: str, save: Callable[[Any, Path], None]) -> None:
    wanted = network(seed=1).state_dict()
    save(wanted, tmp_path / name)
    module = network(seed=0)
    load_weights(module, tmp_path / name)
    assert all(torch.equal(wanted[key], tensor) for key, tensor in module.state_dict().items())


class Runs:
    """Unpickling this makes a file: the proof that code ran."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, zipped: bool, protocol: int
) -> None:
    proof = tmp_path / "ran"
    path = tmp_path / "evil.pt"
    state = {**network().state_dict(), "extra": Runs(proof)}
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    line = refused(path)
    assert not proof.exists()
    assert "run code, and is refused" in line
    assert "torch.save(model.state_dict(), FILE)" in line
    # The file is what it says: with the guard off, the code would have run.
    torch.load(path, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "ran"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Runs(proof), protocol=protocol))
    assert "the checkpoint is a pickle that would run code, and is refused" in refused(path)
    assert not proof.exists()


def test_other_bytes_are_not_called_a_pickle_that_would_run_code(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    assert "the checkpoint is damaged, or a pickle that may run code" in refused(path)


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "module.pt")
    assert "would run code" in refused(tmp_path / "module.pt")


@pytest.mark.parametrize("save", [save_torch, save_legacy])
def test_a_truncated_checkpoint(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "w.pt"
    save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be read" in refused(path)


def test_a_truncated_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "the safetensors file cannot be read" in refused(path)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert "the weights file is empty" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_folder_and_nothing_at_all(tmp_path: Path, name: str) -> None:
    assert "cannot be read" in refused(tmp_path / name)
    (tmp_path / name).mkdir()
    assert "cannot be read" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"# a text\nand its second line\n" * 9, bytes(range(256)) * 9])
def test_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name)


def test_a_torchscript_archive(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.script(nn.Linear(2, 2)).save(path)
    assert "cannot be read" in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        {"lr": 0.1, "name": "x"},
        [torch.zeros(2)],
        torch.zeros(2),
        {0: torch.zeros(2)},
        {"state_dict": {"a": 1}},
    ],
)
def test_a_checkpoint_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert "holds no state dict" in refused(tmp_path / "w.pt")


def test_weights_of_another_shape(tmp_path: Path) -> None:
    torch.save(network(classes=7).state_dict(), tmp_path / "w.pt")
    line = refused(tmp_path / "w.pt")
    assert "do not fit the model: size mismatch for 9.weight" in line
    assert line.endswith("are the classes, the input size and the model options the same?")


def test_weights_with_other_names(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = network().state_dict()
    torch.save({k: v for k, v in state.items() if k != "0.bias"}, path)
    assert "the weights lack '0.bias'; are they" in refused(path)
    torch.save({**state, "head": torch.zeros(1)}, path)
    assert "have 'head', which the model has not; are they" in refused(path)
    torch.save({f"module.{k}": v for k, v in state.items()}, path)
    assert "lack '0.weight' and 7 more and have 'module.0.weight'" in refused(path)


def test_arrays_are_no_tensors(tmp_path: Path) -> None:
    torch.save({"0.weight": np.zeros(3)}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt")
