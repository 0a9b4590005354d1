"""Every error a user can cause, each with the exit code it ends in.

::

    EdgebenchError                 5  failed
    ├── UsageError                 2  the command line or an environment variable is wrong
    │   ├── UnknownNameError       2  a name nobody registered; carries the nearest one
    │   ├── RecipeError            2  the recipe cannot be read or makes no sense
    │   ├── ModelError             2  the model cannot be loaded, or is not a classifier
    │   └── DataError              2  the data cannot be read, or cannot be judged on
    ├── NotMeasuredError           4  the target was not reached, or measured nothing
    ├── NotComparableError         4  two measurements that must not be set side by side
    ├── BuildError                 5  a technique or an export failed for one variant
    ├── StorageError               5  a disk is full, read-only or out of reach
    └── BusyError                  5  another run holds this folder

An error is one line: what is wrong, where, and what to do. Foreign exceptions become one of
these where they are met; what still escapes is a defect, and the command line says so.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from typing import ClassVar

EXIT_GO = 0
EXIT_NO_GO = 1
EXIT_USAGE = 2
EXIT_INCONCLUSIVE = 3
EXIT_NOT_MEASURED = 4
EXIT_FAILED = 5
EXIT_INTERRUPTED = 130


class EdgebenchError(Exception):
    """Something a user can mend. `what` is wrong, `where` it is, `hint` says what to do."""

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(self.line())

    def line(self) -> str:
        """The whole message on one line."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.hint:
            text = f"{text}; {self.hint}"
        return one_line(text)


class UsageError(EdgebenchError):
    """The command line or an environment variable is wrong."""

    exit_code = EXIT_USAGE


class UnknownNameError(UsageError):
    """A name that nobody registered, with the nearest one that somebody did."""

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, where: str | None = None
    ) -> None:
        names = sorted(known)
        near = nearest(name, names)
        hint = f"did you mean '{near}'?" if near else f"known: {', '.join(names) or 'none'}"
        super().__init__(f"unknown {kind} '{name}'", where=where, hint=hint)
        self.kind = kind
        self.name = name


class RecipeError(UsageError):
    """The recipe cannot be read or makes no sense."""


class ModelError(UsageError):
    """The model cannot be loaded, or is not a classifier."""


class DataError(UsageError):
    """The data cannot be read, or nothing can be judged on it."""


class NotMeasuredError(EdgebenchError):
    """The target was not reached, or measured nothing."""

    exit_code = EXIT_NOT_MEASURED


class NotComparableError(EdgebenchError):
    """Two measurements that must not be set side by side."""

    exit_code = EXIT_NOT_MEASURED


class BuildError(EdgebenchError):
    """A technique or an export failed for one variant; the other variants go on."""


class StorageError(EdgebenchError):
    """A disk is full, read-only or out of reach."""


class BusyError(EdgebenchError):
    """Another run holds this folder."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, or None where none comes close."""
    lowered = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    return lowered[found[0]] if found else None


def one_line(text: str, limit: int = 400) -> str:
    """`text` with its line breaks folded, cut at `limit` characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[: limit - 1] + "…"


# How libraries say that the disk is full without the system's error number: Rust's and numpy's way.
_FULL = re.compile(r"\(os error (28|122)\)|No space left on device|\d+ requested and \d+ written")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or what it came from, is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if _FULL.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def storage_error(error: Exception, path: object) -> StorageError:
    """What the operating system refused, as one line with the way out."""
    number = getattr(error, "errno", None)
    where = str(getattr(error, "filename", None) or path)
    if is_disk_full(error):
        return StorageError(
            "the disk is full", where=where, hint="make room; what is done is kept: run again"
        )
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return StorageError(
            "no permission to write here", where=where, hint="name another folder, e.g. with --out"
        )
    reason = getattr(error, "strerror", None) or error
    return StorageError(f"cannot be written: {reason}", where=where)
