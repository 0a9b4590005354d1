"""Plug-in families: one file, one class or function, registered by name.

A family is found by importing every module in its folder; other people's packages join it
through the entry-point group ``edgebench.plugins``, whose entries name modules to import.
Plug-in modules import heavy libraries inside their functions, so scanning stays cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from edgebench.errors import EdgebenchError, UnknownNameError, one_line

ENTRY_POINT_GROUP = "edgebench.plugins"

T = TypeVar("T")


class Registry(Generic[T]):
    """The members of one plug-in family, by name.

    `kind` is the word for one member in messages ("technique"); `package` is the folder that is
    scanned, as a dotted name.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._members: dict[str, T] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that adds a member. A name taken twice is an error."""

        def add(member: T) -> T:
            if self._members.get(name, member) is not member:
                raise EdgebenchError(f"two {self.kind}s are registered as '{name}'")
            self._members[name] = member
            return member

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        self._scan()
        return sorted(self._members)

    def get(self, name: str, *, where: str | None = None) -> T:
        """The member called `name`; raises UnknownNameError with the nearest name."""
        self._scan()
        try:
            return self._members[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self._members, where=where) from None

    def items(self) -> Iterator[tuple[str, T]]:
        """Name and member, sorted by name."""
        for name in self.names():
            yield name, self._members[name]

    def _scan(self) -> None:
        if self._scanned:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        _load_entry_points()
        self._scanned = True


@cache
def _load_entry_points() -> None:
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            raise EdgebenchError(
                f"plug-in '{entry.name}' cannot be imported: {one_line(repr(error))}",
                hint=f"mend or uninstall {entry.value}",
            ) from error
