"""Folders of class folders of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgebench.data.base import Source, Split
from edgebench.data.images import SUFFIXES, ImageFiles, decode, survey
from edgebench.errors import DataError

TEST_NAMES = ("test", "val", "validation")


def read_folder(folder: Path) -> Source:
    """The images under `folder`; each class is a folder, named for the class.

    Either `train/` and `test/` (or `val/`, `validation/`) hold the class folders, or `folder`
    itself does and is split when it is loaded. Images lie in a class folder at any depth; their
    order is that of their sorted paths, class after class. Raises DataError.
    """
    inner = {path.name: path for path in _folders(folder)}
    test_name = next((name for name in TEST_NAMES if name in inner), None)
    if "train" in inner and test_name is not None:
        train, names = _classes(inner["train"])
        test, test_names = _classes(inner[test_name])
        if names != test_names:
            raise DataError(_difference(names, test_names, test_name), where=str(folder))
        return _source(folder, train, names, test)
    if "train" in inner and _folders(inner["train"]):
        raise DataError(
            "has train/ but no test/", where=str(folder), hint="add a folder test/, like train/"
        )
    return _source(folder, *_classes(folder), None)


def _source(
    folder: Path,
    train: dict[str, list[Path]],
    names: tuple[str, ...],
    test: dict[str, list[Path]] | None,
) -> Source:
    halves = [train] if test is None else [train, test]
    files = [ImageFiles(tuple(p for name in names for p in half[name])) for half in halves]
    form = survey(files)
    splits = [
        Split(
            np.repeat(np.arange(len(names), dtype=np.int64), [len(half[n]) for n in names]),
            lambda indices, images=images: decode(images, indices, form),  # type: ignore[misc]
            str(folder),
        )
        for half, images in zip(halves, files, strict=True)
    ]
    return Source(
        splits[0],
        splits[1] if test is not None else None,
        names,
        f"images in the folder {folder}",
    )


def _classes(folder: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """The image files of each class folder, and the sorted class names."""
    classes = {path.name: _images(path) for path in _folders(folder)}
    if not any(classes.values()):
        raise DataError(
            "there are no images in folders",
            where=str(folder),
            hint="put the images of each class into a folder named for the class",
        )
    for name, images in classes.items():
        if not images:
            raise DataError(
                f"the class folder '{name}' has no images",
                where=str(folder),
                hint="add images or remove the folder",
            )
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the folder name {name!a} is not UTF-8", where=str(folder), hint="rename it"
            ) from error
    return classes, tuple(sorted(classes))


def _folders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted by name; hidden ones are left out."""
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(folder)) from error


def _images(folder: Path) -> list[Path]:
    """The image files under `folder`, sorted by their path below it; hidden ones are left out."""
    found = []

    def refuse(error: OSError) -> None:
        raise DataError(
            f"cannot be read: {error.strerror or error}", where=str(error.filename or folder)
        ) from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _difference(train: tuple[str, ...], test: tuple[str, ...], test_name: str) -> str:
    """Which classes only one half has."""
    parts = []
    for only, where in (
        (sorted(set(train) - set(test)), "train"),
        (sorted(set(test) - set(train)), test_name),
    ):
        if only:
            names = ", ".join(f"'{n}'" for n in only[:5]) + (", …" if len(only) > 5 else "")
            parts.append(f"{names} only in {where}/")
    return f"the classes differ: {'; '.join(parts)}"
