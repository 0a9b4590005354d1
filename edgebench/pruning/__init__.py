"""Pruning: which weights or channels go, and how many of each layer."""
