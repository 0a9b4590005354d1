"""Data sets: named ones, folders of images, Parquet files, arrays; one file each, by name."""

from edgebench.data.arrays import Arrays, gives_classes
from edgebench.data.base import DATASETS, Dataset
from edgebench.data.loading import load, load_any

__all__ = ["DATASETS", "Arrays", "Dataset", "gives_classes", "load", "load_any"]
