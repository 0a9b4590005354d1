"""Data sets: named ones, folders of images, Parquet files; one file each, registered by name."""

from edgebench.data.base import DATASETS, Dataset
from edgebench.data.loading import load

__all__ = ["DATASETS", "Dataset", "load"]
