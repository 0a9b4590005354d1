"""What a runtime has to offer so that the agent can measure with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    # One array for each input of the model, in its order, batch first: [B, ...].
    Feed = Tuple[NDArray[Any], ...]
    # One array for each output: floats as float32, all else as the model gives it.
    Answer = Tuple[NDArray[Any], ...]


class TensorSpec:
    """An input or output of a model.

    `dtype` is numpy's name for it, `shape` has None where a size is free.
    """

    def __init__(self, name: str, dtype: str, shape: List[Optional[int]]) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape


class Query:
    """One query of a fixed batch, with its buffers bound once.

    `write` puts a feed into the input buffers, `call(bound)` makes one inference and has finished
    when it returns, `read` gives a copy of the last answer. `transfers` says whether a call copies
    to and from a device; where it does, `resident` is the same inference without the copies.

    A timed loop calls `call` with `bound` and nothing else: for ONNX Runtime on the processor that
    is the session's own function, since a closure around the two would be 2 % of a call of 5 µs. A
    call may raise what the runtime raises; who times it says what was being done.
    """

    def __init__(
        self,
        write: Callable[[Feed], None],
        call: Callable[[Any], Any],
        read: Callable[[], Answer],
        *,
        bound: Any = None,
        transfers: bool = False,
        resident: Optional[Query] = None,
    ) -> None:
        self.write = write
        self.call = call
        self.read = read
        self.bound = bound
        self.transfers = transfers
        self.resident = resident

    def run(self) -> None:
        """One inference, where nothing is timed."""
        self.call(self.bound)


class Model(ABC):
    """A loaded model.

    `providers` are those that really serve it; `inputs` and `outputs` in the model's order.
    """

    providers: List[str]
    inputs: List[TensorSpec]
    outputs: List[TensorSpec]

    @property
    def fixed_batch(self) -> Optional[int]:
        """The batch size, where the model takes no other."""
        sizes = [spec.shape[0] for spec in self.inputs if spec.shape]
        return next((size for size in sizes if size is not None), None)

    @abstractmethod
    def infer(self, feed: Feed) -> Answer:
        """The answer to a feed of any batch the model takes; raises ModelFailedError."""

    @abstractmethod
    def bind(self, feed: Feed, answer: Answer) -> Query:
        """A query for feeds and answers shaped like these two."""


class Runtime(ABC):
    """A way to run models. `package` is what pip calls it, `suffix` how its files end.

    `accelerators` are its providers that use more than the processor, best first; `processor` is
    the one that does not.
    """

    name: str
    title: str
    package: str
    suffix: str = ".onnx"
    accelerators: Tuple[str, ...] = ()
    processor: str

    @abstractmethod
    def version(self) -> str:
        """Its version; raises ImportError where it is not installed."""

    @abstractmethod
    def offered(self) -> List[str]:
        """The providers it offers on this device."""

    @abstractmethod
    def load(
        self, path: Path, providers: List[str], threads: int, session_config: Dict[str, str]
    ) -> Model:
        """Load a model file; raises ModelFailedError."""

    def inspect(
        self,
        path: Path,
        providers: List[str],
        threads: int,
        session_config: Dict[str, str],
        feed: Feed,
    ) -> Optional[Inspection]:
        """What really ran where for a feed, seen in sessions of their own, never timed.

        None where the runtime cannot tell.
        """
        del path, providers, threads, session_config, feed
        return None


class Inspection:
    """What a runtime tells of one inference.

    `nodes`: how many operators ran, by provider and operator, as {provider: {operator: count}}.
    `integer_operators`: how many of them computed in integers. `unoptimised`: the answer of a
    session without graph optimisations, where there is such a thing; `optimised`: that of the
    session as it is measured.
    """

    def __init__(
        self,
        nodes: Dict[str, Dict[str, int]],
        integer_operators: Dict[str, int],
        *,
        optimised: Optional[Answer] = None,
        unoptimised: Optional[Answer] = None,
    ) -> None:
        self.nodes = nodes
        self.integer_operators = integer_operators
        self.optimised = optimised
        self.unoptimised = unoptimised
