from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def int8_models() -> ModuleType:
    """The module that makes small int8 networks."""
    return _module(Path(__file__).with_name("int8_models.py"))


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contract's networks in both formats."""
    folder = tmp_path_factory.mktemp("networks")
    models = _module(Path(__file__).parents[2] / "contracts" / "runtime_models.py")
    for suffix in (".onnx", ".pt2"):
        models.write(folder, suffix)
    return folder
