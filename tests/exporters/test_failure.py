"""What torch says of a failed export, in other words."""

from __future__ import annotations

from itertools import pairwise

from edgebench.exporters.failure import explained


def chained(*errors: Exception) -> Exception:
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


NODE = (
    "Error when translating node %area : [num_users=1] = call_function[target=torch.ops.aten.area"
    ".default](args = (%x,), kwargs = {}). See the stack trace for more information."
)


def test_an_operator_that_torch_cannot_write_is_named_with_the_reason() -> None:
    hint = "write it with other operators, or use the target cpu-torch"
    error = explained(chained(RuntimeError(NODE), ValueError("no such mode\nmore")), "to ONNX")
    assert error.line() == (
        "the model cannot be exported to ONNX: torch cannot write 'aten.area' in ONNX: no such "
        f"mode; {hint}"
    )
    alone = explained(RuntimeError(NODE), "to ONNX")
    assert alone.line().endswith(f": torch cannot write 'aten.area' in ONNX; {hint}")


def test_an_operator_that_onnx_lacks_is_found_behind_any_error() -> None:
    text = "No ONNX function found for <OpOverload(op='aten.area', overload='default')>. Failure"
    error = explained(chained(RuntimeError(NODE), RuntimeError("x"), TypeError(text)), "to ONNX")
    assert "ONNX has no operator for 'aten.area'" in error.what


def test_what_was_raised_is_told_not_what_caused_it() -> None:
    error = explained(chained(ValueError("of this kind"), KeyError("k")), "with torch.export")
    assert error.what == "the model cannot be exported with torch.export: ValueError: of this kind"
    assert error.hint
