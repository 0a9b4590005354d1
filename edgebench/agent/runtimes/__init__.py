"""The runtimes the agent can measure with, by name.

A table and not a scan: the agent is one zip file, and a runtime imports its package only when it
is asked something.
"""

from __future__ import annotations

from typing import Dict

from .base import Runtime
from .onnxruntime import OnnxRuntime
from .openvino import OpenVino
from .torch import Torch

RUNTIMES: Dict[str, Runtime] = {
    runtime.name: runtime for runtime in (OnnxRuntime(), OpenVino(), Torch())
}
