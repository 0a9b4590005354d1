"""Fixtures: the small trained networks of tests/techniques/networks.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

NAME = "edgebench_test_networks"
if NAME not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        NAME, Path(__file__).parent.parent / "techniques" / "networks.py"
    )
    assert spec
    assert spec.loader
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
networks = sys.modules[NAME]

data, network, exported = networks.data, networks.network, networks.exported
context, tools, one_thread = networks.context, networks.tools, networks.one_thread
