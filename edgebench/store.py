"""The store of what was built: folders keyed by a hash of all that went into them.

An entry appears whole or not at all, so a run that is killed leaves nothing half-made behind. Each
entry lists the hashes of its files; one that was damaged is made again. Latencies are never stored
here.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from edgebench.errors import StorageError, is_disk_full, storage_error
from edgebench.hashing import file_digest

ENTRY_FILE = "entry.json"
ENTRY_SCHEMA = "edgebench.entry/1"


DISK_REFUSES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


class _MakerError(Exception):
    """What went wrong inside `make`, told apart from what went wrong around it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _refusal(error: Exception, folder: Path) -> StorageError:
    problem = storage_error(error, folder)
    if getattr(error, "errno", 0) in {errno.EACCES, errno.EPERM, errno.EROFS}:
        # `--out` moves the run, not the store.
        hint = "name another folder in the environment variable EDGEBENCH_CACHE"
        return StorageError(problem.what, where=problem.where, hint=hint)
    return problem


class Store:
    """Entries under `root`, one folder a key."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> Store:
        """The user's store: `EDGEBENCH_CACHE`, else the platform's cache folder."""
        chosen = os.environ.get("EDGEBENCH_CACHE")
        if chosen:
            return cls(Path(chosen).expanduser())
        import platformdirs

        return cls(platformdirs.user_cache_path("edgebench") / "store")

    def find(self, key: str) -> Path | None:
        """The folder of a whole and undamaged entry, or None."""
        folder = self._folder(key)
        try:
            entry = json.loads((folder / ENTRY_FILE).read_text())
            files = entry["files"]
            if entry["schema"] != ENTRY_SCHEMA or entry["key"] != key:
                return None
            sound = all(file_digest(folder / name) == digest for name, digest in files.items())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return folder if sound else None

    def obtain(self, key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
        """The entry's folder, made by `make(folder)` where it is not there yet; and whether it was.

        Of two processes that want the same entry, the second waits for the first.
        """
        folder = self._folder(key)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                found = self.find(key)
                if found is not None:
                    return found, True
                self._make(key, folder, make)
        except _MakerError as wrapped:
            error = wrapped.error
            # Exporters and savers wrap the system's error in their own. Anything else that goes
            # wrong while making an entry is the maker's, not the disk's.
            refused = isinstance(error, OSError) and error.errno in DISK_REFUSES
            if refused or is_disk_full(error):
                raise _refusal(error, folder) from error
            raise error from error.__cause__
        except OSError as error:
            raise _refusal(error, folder) from error
        return folder, False

    def scratch(self, key: str) -> Path:
        """A folder for what the making of an entry leaves on its way; gone once it is made."""
        return self._folder(key).with_suffix(".scratch")

    def _make(self, key: str, folder: Path, make: Callable[[Path], None]) -> None:
        for leftover in folder.parent.glob(f"{key}.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix=f"{key}.new-", dir=folder.parent))
        try:
            try:
                make(fresh)
            except Exception as error:
                raise _MakerError(error) from error
            files = {p.name: file_digest(p) for p in sorted(fresh.iterdir())}
            entry = {"schema": ENTRY_SCHEMA, "key": key, "files": files}
            write_atomically(fresh / ENTRY_FILE, json.dumps(entry, indent=1))
            if folder.exists():
                shutil.rmtree(folder)
            fresh.rename(folder)
            shutil.rmtree(self.scratch(key), ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _folder(self, key: str) -> Path:
        return self.root / key[:2] / key


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content as a whole; raises StorageError."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise storage_error(error, path) from error


def read_json(path: Path) -> object:
    """The JSON value in a file; raises StorageError where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise StorageError("is no JSON", where=str(path), hint="is it complete?") from error
