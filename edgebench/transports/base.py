"""What a transport does, and the registry of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench.registry import Registry

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class TransportSpec:
    """How one target is reached.

    `name` is the target's, `python` the interpreter on the device, `runtime` its runtime's
    options (at least `name`), `env` what the agent's environment gets beside its own.
    """

    name: str
    transport: str
    host: str | None = None
    python: str | None = None
    runtime: dict[str, Any] = field(default_factory=lambda: {"name": "onnxruntime"})
    env: dict[str, str] = field(default_factory=dict)
    connect_timeout_s: float = 10.0


class Transport(ABC):
    """A way to a device."""

    def __init__(self, spec: TransportSpec) -> None:
        self.spec = spec

    @abstractmethod
    def probe(self) -> dict[str, Any]:
        """The device's device.json; raises NotMeasuredError."""

    @abstractmethod
    def measure(self, bundle: Path, results: Path, on_event: OnEvent) -> None:
        """Run the plan of a bundle folder on the device and bring the results to a folder here.

        `on_event` gets each event of the agent, a "done" when the model's results are here.
        Results of the same run that are there already are not measured again. Raises
        NotMeasuredError, and StorageError where this machine's disk is full.
        """


TRANSPORTS: Registry[type[Transport]] = Registry("transport", "edgebench.transports")


def open_transport(target: TransportSpec) -> Transport:
    """The transport a target asks for; raises UnknownNameError."""
    return TRANSPORTS.get(target.transport, where=f"target '{target.name}'")(target)
