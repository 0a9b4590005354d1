"""Every test has a cache, a history and a home of its own; nothing of the user's is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store of built things for the whole session: keys make sharing safe."""
    cache = tmp_path_factory.mktemp("cache")
    os.environ["EDGEBENCH_CACHE"] = str(cache)
    return cache


@pytest.fixture(autouse=True)
def own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_STORE", str(tmp_path / "history.sqlite"))
    monkeypatch.delenv("EDGEBENCH_JETSON_HOST", raising=False)
