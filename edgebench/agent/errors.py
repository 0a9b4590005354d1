"""What can end a measurement: a fault that ends everything, or one model's failure."""

from __future__ import annotations

import errno

EXIT_CODES = {"bundle": 2, "runtime": 4, "storage": 5}

_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class AgentError(Exception):
    """A fault that ends everything; `code` is bundle, runtime or storage."""

    def __init__(self, code: str, problem: str) -> None:
        self.code = code
        self.problem = one_line(problem)
        super().__init__(self.problem)

    @property
    def exit_code(self) -> int:
        """What the process ends with: 2 bundle, 4 runtime, 5 storage."""
        return EXIT_CODES[self.code]


class ModelFailedError(Exception):
    """One model cannot be measured; the others go on."""


class HangupError(Exception):
    """Nobody listens any more: the connection is gone."""


def is_storage_fault(error: OSError) -> bool:
    """Whether the disk is full or read-only, so that no other model could be written either."""
    return error.errno in _STORAGE_ERRNOS


def one_line(text: str, limit: int = 400) -> str:
    """`text` with its line breaks folded, cut at `limit` characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[: limit - 1] + "…"
