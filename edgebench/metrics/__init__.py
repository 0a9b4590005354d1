"""Metrics: one file, one function, registered by name."""
