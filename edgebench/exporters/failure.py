"""Why torch could not export a module: the operator or the line of code, and what to do.

Torch's own messages begin with its symbols and end with how to debug it.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from edgebench.errors import BuildError, one_line

BATCH_TAKEN = "the batch size was taken for a constant"
BATCH_HINT = "do not loop over the batch, nor compute with its size as a Python number"
OPERATOR_HINT = "write it with other operators, or use the target cpu-torch"
FOLLOW_HINT = (
    "torch.export has to follow its forward pass: tensors in, tensors out, and no Python that "
    "depends on their values"
)

# Torch colours some of its messages for a terminal.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_NOT_WRITTEN = re.compile(r"Error when translating node .*\[target=torch\.ops\.([\w.]+)\.\w+\]")
_ON_VALUES = re.compile(
    r"Could not (guard on|extract \w+ \w+ from) data-dependent expression (\S+)"
)


def explained(error: BaseException, form: str) -> BuildError:
    """The error of a model that cannot be exported `form`, from what torch raised.

    An operator that ONNX lacks is named, and so is the line of a model that cannot be traced.
    """
    what, hint = _reason(error)
    return BuildError(f"the model cannot be exported {form}: {what}", hint=hint)


def _reason(error: BaseException) -> tuple[str, str]:
    """What is in the way, and what to do."""
    text, *causes = [_COLOUR.sub("", str(one)) for one in _chain(error)]
    for told in (text, *causes):
        if missing := _NO_OPERATOR.search(told):
            return f"ONNX has no operator for '{missing[1]}'", OPERATOR_HINT
    if unwritten := _NOT_WRITTEN.search(text):
        why = f": {_first_line(causes[-1])}" if causes else ""
        return f"torch cannot write '{unwritten[1]}' in ONNX{why}", OPERATOR_HINT
    if "Constraints violated" in text:
        return BATCH_TAKEN, BATCH_HINT
    frame = _line_of_code(error)
    if found := _ON_VALUES.search(text):
        at = f" at `{one_line(frame.line or '', 80)}` ({_place(frame)})" if frame else ""
        if found[1] != "guard on" or found[2].isidentifier():
            return (
                f"it cannot be traced{at}: it makes a Python number of a tensor",
                "compute with tensors alone, without item(), int(), float() or tolist()",
            )
        return (
            f"it cannot be traced{at}: it branches on values",
            "use torch.where in place of the branch",
        )
    at = f" ({_place(frame)})" if frame else ""
    return f"{type(error).__name__}: {_first_line(text)}{at}", FOLLOW_HINT


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(text: str) -> str:
    return one_line(text.strip().split("\n")[0], 240)


def _place(frame: traceback.FrameSummary) -> str:
    # Its name alone: the rest of the path is this machine's.
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _line_of_code(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost line of the model's own code that an error passed, where it passed any."""
    import torch

    packages = Path(sysconfig.get_path("purelib"))
    standard = Path(sysconfig.get_path("stdlib"))
    own = Path(torch.__file__).parent
    # Beside it lies what it computes sizes with.
    foreign = [Path(__file__).parent, own, own.with_name("sympy")]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        library = file.is_relative_to(standard) and not file.is_relative_to(packages)
        if file.is_file() and not library and not any(file.is_relative_to(f) for f in foreign):
            return frame
    return None
