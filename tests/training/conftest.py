"""Fixtures: the small trained networks of tests/support/trained_networks.py."""

from __future__ import annotations

from trained_networks import context, data, exported, network, one_thread, tools

__all__ = ["context", "data", "exported", "network", "one_thread", "tools"]
