"""What a built artifact depends on besides the recipe: package versions and our own code."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgebench import __version__
from edgebench.hashing import source_digest

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "torch-pruning", "numpy")
# The folders whose code decides what an artifact holds.
BUILDING_CODE = (
    "models",
    "training",
    "pruning",
    "quantization",
    "distillation",
    "factorization",
    "techniques",
    "exporters",
)


@cache
def package_versions() -> dict[str, str]:
    """The versions of Python, edgebench and the packages that build and run models."""
    versions = {"python": platform.python_version(), "edgebench": __version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@cache
def measuring_code() -> str:
    """The hash of the agent's code: an unfinished run is not taken up with another clock."""
    package = Path(__file__).resolve().parent.parent
    return source_digest((package / "agent").rglob("*.py"))


@cache
def building_code() -> str:
    """The hash of the code that builds: a changed technique must not be served from the store."""
    package = Path(__file__).resolve().parent.parent
    return source_digest(
        path for folder in BUILDING_CODE for path in (package / folder).glob("*.py")
    )
