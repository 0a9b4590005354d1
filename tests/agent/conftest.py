from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def load(name: str) -> ModuleType:
    """The module of this name beside this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bundles() -> ModuleType:
    """The module that makes small bundles and runs them."""
    return load("bundles")


@pytest.fixture(scope="session")
def process_table() -> ModuleType:
    """The module that finds processes by their command lines."""
    return load("process_table")


@pytest.fixture(scope="session")
def models(bundles: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small classifiers by name, some of which cannot be measured."""
    folder = tmp_path_factory.mktemp("models")
    make = bundles.classifier
    broken = folder / "broken.onnx"
    broken.write_bytes(b"not a model")
    return {
        "base": make(folder / "base.onnx"),
        "small": make(folder / "small.onnx", seed=1),
        "fixed-1": make(folder / "fixed1.onnx", batch=1),
        "fixed-8": make(folder / "fixed8.onnx", batch=8),
        "tall": make(folder / "tall.onnx", rank3=True),
        "log": make(folder / "log.onnx", log=True),
        "greedy": make(folder / "greedy.onnx", greedy=True),
        "broken": broken,
    }
