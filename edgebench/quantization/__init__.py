"""Quantized arithmetic for training and for files: grids, graphs, calibration."""
