"""The offline way: a zip carried to the device by hand, and a zip carried back."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from edgebench.agent.evidence import PACKAGES
from edgebench.agent.runtimes import RUNTIMES
from edgebench.errors import DataError, NotMeasuredError, storage_error
from edgebench.transports.agent_zip import build_agent
from edgebench.transports.base import TRANSPORTS, OnEvent, Transport

_README = """\
An edgebench bundle: models to be measured on this device.

1. Unpack it here:          python3 -m zipfile -e bundle.zip bundle
2. Run it:                  python3 bundle/agent.pyz
3. Carry bundle/results.zip back to the machine with edgebench, and there:
                            edgebench ingest results.zip RUN
   RUN is the folder that edgebench bundle named.

It needs Python 3.8 or later (as late as the packages ask for) with {packages}
(python3 -m pip install {packages}; for a graphics card, the vendor's build),
and no network. Let nothing else run on the device meanwhile. If it is interrupted, start it again:
what was measured is kept.
"""

_MEMBER = re.compile(
    r"device\.json|([a-z0-9][a-z0-9._-]*)/(result\.json|samples\.npz|outputs\.npy"
    r"|scenarios\.npz|loadgen\.zip)"
)
_MAX_MEMBERS = 30_000
_MAX_BYTES = 8 << 30
_CHUNK = 1 << 20


@TRANSPORTS.register("bundle")
class BundleTransport(Transport):
    """A device without a connection: it can only be reached by carrying a bundle there."""

    def probe(self) -> dict[str, Any]:
        """Refused: the device describes itself in the results it sends back."""
        raise self._no_connection()

    def measure(self, bundle: Path, results: Path, on_event: OnEvent) -> None:
        """Refused: see `pack` and `unpack_results`."""
        raise self._no_connection()

    def _no_connection(self) -> NotMeasuredError:
        return NotMeasuredError(
            "there is no connection to it",
            where=f"target '{self.spec.name}'",
            hint="carry a bundle there: edgebench bundle, then edgebench ingest results.zip RUN",
        )


def _packages(bundle: Path) -> str:
    """What pip has to install on the device."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    runtime, asked = RUNTIMES[manifest["runtime"]["name"]].package, manifest["runtime"]["providers"]
    if asked != "auto":
        runtime = next((PACKAGES[one] for one in asked if one in PACKAGES), runtime)
    drivers = {scenario["driver"] for scenario in manifest["protocol"]["scenarios"]}
    loadgen = ["mlcommons-loadgen"] if "loadgen" in drivers else []
    return " ".join(["numpy", runtime, *loadgen])


def pack(bundle: Path, zip_path: Path) -> None:
    """Zip a bundle folder together with the agent and a README.txt; raises StorageError."""
    try:
        zip_path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=zip_path.parent, prefix=".bundle-") as scratch:
            whole = Path(scratch, "bundle.zip")
            agent = build_agent(Path(scratch, "agent.pyz"))
            with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("README.txt", _README.format(packages=_packages(bundle)))
                archive.write(agent, "agent.pyz")
                for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
                    archive.write(path, path.relative_to(bundle).as_posix())
            os.replace(whole, zip_path)
    except OSError as error:
        raise storage_error(error, zip_path) from error


def unpack_results(zip_path: Path, results: Path) -> None:
    """Unpack a results.zip into a folder; raises DataError where it is not a whole one.

    Only the files that an agent writes are taken, and no more than 8 GiB in all. Each model's
    result.json comes last, so what is half there is not taken for finished.
    """
    where = str(zip_path)
    try:
        archive = zipfile.ZipFile(zip_path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot be read as a zip: {error}", where=where, hint="copy results.zip again"
        ) from error
    with archive:
        members = _checked_members(archive, where)
        try:
            results.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=results, prefix=".unpack-") as scratch:
                for info in members:
                    _unpack_one(archive, info, Path(scratch), where)
                for info in sorted(members, key=lambda m: m.filename.endswith("/result.json")):
                    target = results / info.filename
                    target.parent.mkdir(exist_ok=True)
                    os.replace(Path(scratch, info.filename), target)
        except OSError as error:
            raise storage_error(error, results) from error


def _checked_members(archive: zipfile.ZipFile, where: str) -> list[zipfile.ZipInfo]:
    members = [info for info in archive.infolist() if not info.is_dir()]
    names = [info.filename for info in members]
    for name in names:
        if not _MEMBER.fullmatch(name):
            raise DataError(
                f"holds '{name}', which no agent writes",
                where=where,
                hint="name the results.zip that agent.pyz wrote on the device",
            )
    if "device.json" not in names or len(set(names)) < len(names) or len(names) > _MAX_MEMBERS:
        raise DataError(
            "is not a whole results.zip",
            where=where,
            hint="run python3 agent.pyz on the device to its end, and copy results.zip again",
        )
    total = sum(info.file_size for info in members)
    if total > _MAX_BYTES:
        raise DataError(f"would unpack to {total} bytes, more than 8 GiB", where=where)
    return members


def _unpack_one(archive: zipfile.ZipFile, info: zipfile.ZipInfo, scratch: Path, where: str) -> None:
    target = scratch / info.filename
    target.parent.mkdir(exist_ok=True)
    try:
        # A member gives no more bytes than its header says, and those were counted.
        with archive.open(info) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, _CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"'{info.filename}' in it is damaged: {error}", where=where, hint="copy it again"
        ) from error
