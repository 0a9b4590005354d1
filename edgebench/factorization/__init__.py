"""Layers as chains of cheaper ones: factorizations of weights, and the choice of their ranks."""
