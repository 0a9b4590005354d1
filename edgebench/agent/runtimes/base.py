"""What a runtime has to offer so that the agent can measure with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


class Query:
    """One query at batch 1, with its buffers bound once.

    `write` puts a float32 example [...] into the input buffer, `run` makes one inference and has
    finished when it returns, `read` gives a copy of the last output as float32 [1, classes].
    """

    def __init__(
        self,
        write: Callable[[NDArray[np.float32]], None],
        run: Callable[[], Any],
        read: Callable[[], NDArray[np.float32]],
    ) -> None:
        self.write = write
        self.run = run
        self.read = read


class Model(ABC):
    """A loaded model with one input.

    `providers` are those that really serve it, `fixed_batch` is its batch size where it takes no
    other, `output_name` is what it calls its output.
    """

    providers: list[str]
    fixed_batch: int | None
    output_name: str

    @abstractmethod
    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output for float32 [N, ...]; raises ModelFailedError."""

    @abstractmethod
    def bind(self, example: NDArray[np.float32], output: NDArray[np.float32]) -> Query:
        """A query at batch 1 for examples and outputs shaped like these two."""


class Runtime(ABC):
    """A way to run models. `package` is what pip calls it.

    `accelerators` are its providers that use more than the processor, best first; `processor` is
    the one that does not.
    """

    name: str
    title: str
    package: str
    accelerators: tuple[str, ...]
    processor: str

    @abstractmethod
    def version(self) -> str:
        """Its version; raises ImportError where it is not installed."""

    @abstractmethod
    def offered(self) -> list[str]:
        """The providers it offers on this device."""

    @abstractmethod
    def load(
        self, path: Path, providers: list[str], threads: int, session_config: dict[str, str]
    ) -> Model:
        """Load a model file; raises ModelFailedError."""
