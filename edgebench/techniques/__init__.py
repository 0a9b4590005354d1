"""Compression techniques: one file, one class, registered by name."""
