from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def bundles() -> ModuleType:
    """The module that makes small bundles."""
    spec = importlib.util.spec_from_file_location("bundles", Path(__file__).with_name("bundles.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
