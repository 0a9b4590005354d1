"""Images, Parquet files and folders to load, written by the tests that need them."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
NOBODY = 65534


def png(mode: str = "L", size: tuple[int, int] = (6, 4), value: int = 0) -> bytes:
    """One image, width by height, whose pixels are random under the seed `value`."""
    rng = np.random.default_rng(value)
    grey = Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8))
    buffer = io.BytesIO()
    grey.convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    path: Path,
    labels: list[int] | pa.Array,
    images: list[bytes | None] | None = None,
    names: list[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
) -> Path:
    """A file in the hub's layout, with the metadata that names the classes where `names` does."""
    if images is None:
        images = [png(value=i) for i in range(len(labels))]
    structs = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({columns[0]: pa.array(structs, kind), columns[1]: labels})
    if names is not None:
        features = {
            columns[0]: {"_type": "Image"},
            columns[1]: {"_type": "ClassLabel", "names": names},
        }
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def write_folder(root: Path, classes: dict[str, int], **form: object) -> Path:
    """Class folders of PNG files; `classes` maps a folder to how many it holds."""
    seed = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed += 1
            (root / name / f"{i:03d}.png").write_bytes(png(value=seed, **form))
    return root


@pytest.fixture
def files() -> type:
    """The writers above, for test modules (which cannot import this one)."""

    class Files:
        png = staticmethod(png)
        parquet = staticmethod(write_parquet)
        folder = staticmethod(write_folder)

    return Files


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the real files of a named set available, or skips."""

    def need(name: str) -> None:
        root = Path(os.environ.get("EDGEBENCH_DATA") or SHARED)
        if not (root / name / "train.parquet").is_file():
            pytest.skip(f"{name} is not on this machine (EDGEBENCH_DATA names no folder with it)")
        monkeypatch.setenv("EDGEBENCH_DATA", str(root))

    return need


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def as_ordinary_user() -> Callable[[], object]:
    """A context in which file permissions bind, also where the tests run as root."""

    @contextmanager
    def ordinary() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    return ordinary
