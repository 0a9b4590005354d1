"""The runtimes the agent can measure with, by name."""

from __future__ import annotations

from .base import Runtime
from .onnxruntime import OnnxRuntime

RUNTIMES: dict[str, Runtime] = {"onnxruntime": OnnxRuntime()}
