"""A model's answers: those to all inputs, and whether those of the timed phase agree with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Optional, Tuple

from .errors import ModelFailedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .measure import Arm, Block
    from .runtimes.base import Answer, Feed, Model

# What is asked of a model: classes, its first output whatever it is, or all of its outputs.
CLASSES, ANY, ALL = "classes", "any", "all"


def check_feed(model: Model, inputs: Feed) -> None:
    """Raise ModelFailedError where the bundle's inputs are not what the model takes."""
    import numpy as np

    if len(model.inputs) != len(inputs):
        raise ModelFailedError(f"it has {len(model.inputs)} inputs, the data has {len(inputs)}")
    for spec, array in zip(model.inputs, inputs):
        # Floats may be narrowed, integers too; a number never becomes an index or a truth value.
        if not np.can_cast(array.dtype, np.dtype(spec.dtype), "same_kind"):
            raise ModelFailedError(
                f"its input '{spec.name}' is {spec.dtype}, the data is {array.dtype}"
            )


def check_answer(answer: Answer, batch: int, kind: str, name: str) -> None:
    """Raise ModelFailedError where the outputs are not what the bundle says of them.

    `name`: the first one's.
    """
    if kind == ALL:
        for index, output in enumerate(answer):
            if output.ndim < 1 or len(output) != batch:
                raise ModelFailedError(
                    f"output {index} has shape {list(output.shape)} for {batch} examples; the "
                    "first dimension has to count the examples"
                )
        return
    output = answer[0]
    if kind == CLASSES and (output.ndim != 2 or len(output) != batch or output.shape[1] < 1):
        raise ModelFailedError(
            f"output '{name}' has shape {list(output.shape)}; a classifier gives [N, classes]"
        )
    if kind == ANY and (output.ndim < 1 or len(output) != batch):
        raise ModelFailedError(
            f"output '{name}' has shape {list(output.shape)} for {batch} examples; the first "
            "dimension has to count the examples"
        )


def all_answers(model: Model, inputs: Feed, *, batch: int, kind: str) -> NDArray[np.float32]:
    """What is asked of the outputs for all inputs, float32 [N, K]; raises ModelFailedError.

    Of several outputs the numbers of an example stand in a row, output after output. A model that
    fixes its batch gets the last examples filled up with copies.
    """
    import numpy as np

    total = len(inputs[0])
    size = model.fixed_batch or batch
    name = model.outputs[0].name
    parts: List[Answer] = []
    for start in range(0, total, size):
        feed = tuple(np.array(array[start : start + size]) for array in inputs)
        asked = len(feed[0])
        if model.fixed_batch and asked < size:
            feed = tuple(np.concatenate([a, np.repeat(a[-1:], size - asked, axis=0)]) for a in feed)
        answer = model.infer(feed)
        check_answer(answer, len(feed[0]), kind, name)
        wanted = answer if kind == ALL else answer[:1]
        for index, output in enumerate(wanted):
            if parts and output.shape[1:] != parts[0][index].shape[1:]:
                raise ModelFailedError(
                    f"output '{model.outputs[index].name}' has shape {list(output.shape[1:])} an "
                    f"example, and had {list(parts[0][index].shape[1:])} before"
                )
        parts.append(tuple(output[:asked] for output in wanted))
    outputs = np.concatenate(
        [np.concatenate(part).astype(np.float32).reshape(total, -1) for part in zip(*parts)],
        axis=1,
    )
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        raise ModelFailedError(f"{int((~finite).sum())} of {total} outputs are not finite")
    return np.ascontiguousarray(outputs)


class Recheck:
    """Compares the last answer of each block with the one computed outside the timed phase.

    As MLPerf's TEST01 does: an answer that is wrong only while the clock runs is no answer.
    """

    # A GPU adds in another order from run to run; on a processor the difference is 0.
    _tolerance = 1e-4

    def __init__(self, arms: Tuple[Arm, Arm], references: List[List[Answer]]) -> None:
        self._arms = arms
        self._references = references
        self.count = 0
        self.largest = 0.0
        self.problem: Optional[str] = None

    def after(self, block: Block) -> None:
        """Look at the answer that `block` left; `problem` says what was wrong first."""
        expected = self._references[block.arm][block.last]
        self.count += 1
        for before, now in zip(expected, self._arms[block.arm].query.read()):
            self._compare(before, now)

    def _compare(self, expected: NDArray[Any], answer: NDArray[Any]) -> None:
        import numpy as np

        if answer.shape != expected.shape:
            raise ModelFailedError(
                f"an answer inside the timed phase has shape {list(answer.shape)}, the same "
                f"input's had {list(expected.shape)} before"
            )
        if expected.size == 0 or not np.issubdtype(expected.dtype, np.floating):
            wrong = not np.array_equal(expected, answer)
            difference = float(wrong)
        elif not np.isfinite(expected).all():
            # How many are not is told when all outputs are computed.
            return
        elif not np.isfinite(answer).all():
            raise ModelFailedError("an output inside the timed phase is not finite")
        else:
            difference = float(np.abs(answer - expected).max())
            scale = float(np.abs(expected).max()) or 1.0
            wrong = not difference <= self._tolerance * scale
        self.largest = max(self.largest, difference)
        if wrong and self.problem is None:
            self.problem = "the outputs inside the timed phase differ from those outside it"
