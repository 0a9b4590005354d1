"""Turn a pydantic validation error into the one line a user can act on."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgebench.errors import EdgebenchError, nearest

M = TypeVar("M", bound=BaseModel)


def validated(
    model: type[M], values: Any, error: type[EdgebenchError], *, where: str, noun: str
) -> M:
    """`values` as a `model`, or `error` in one line.

    Parameters
    ----------
    where : the file or command-line option the values came from.
    noun : what the values are ("recipe", "options of 'ptq'"), for the message.
    """
    if not isinstance(values, dict):
        raise error(
            f"the {noun} is a {_kind(values)}, not a mapping",
            where=where,
            hint="write 'key: value' lines",
        )
    unknown = next((k for k in values if not isinstance(k, str)), None)
    if unknown is not None:
        raise error(
            f"the key {unknown!r} is a {_kind(unknown)}, not a word", where=where, hint="quote it"
        )
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        raise _as_line(problem, model, error, where=where, noun=noun) from None


def _as_line(
    problem: ValidationError,
    model: type[BaseModel],
    error: type[EdgebenchError],
    *,
    where: str,
    noun: str,
) -> EdgebenchError:
    # A misspelt key is also a missing one: the misspelling is what the user can see.
    errors = problem.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(p) for p in first["loc"])
    kind = first["type"]
    if kind == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        word = str(first["loc"][-1])
        near = _elsewhere(model, word) or nearest(word, known)
        hint = f"did you mean '{near}'?" if near else f"known keys: {', '.join(known)}"
        return error(f"unknown key '{path}' in the {noun}", where=where, hint=hint)
    if kind == "missing":
        return error(f"the {noun} lacks '{path}'", where=where, hint=f"add '{path}: …'")
    message = first["msg"].removeprefix("Value error, ")
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping", message)
    message = message[0].lower() + message[1:]
    shown = repr(first["input"])
    given = f" (given {shown})" if kind != "value_error" and len(shown) < 60 else ""
    place = f"'{path}' in the {noun}: " if path else ""
    return error(f"{place}{message}{given}", where=where)


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The known keys of the mapping at `path` inside `model`."""
    current: Any = model
    for step in path:
        fields = getattr(current, "model_fields", None)
        if fields and isinstance(step, str) and step in fields:
            current = _inner_model(fields[step].annotation) or current
    return [f.alias or name for name, f in getattr(current, "model_fields", {}).items()]


def _elsewhere(model: type[BaseModel], word: str) -> str | None:
    """The dotted place of a key that belongs one level further down, if there is one."""
    for name, found in model.model_fields.items():
        inner = _inner_model(found.annotation)
        if inner is not None and word in inner.model_fields:
            return f"{name}.{word}"
    return None


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found:
            return found
    return None


def _kind(value: Any) -> str:
    names = {
        type(None): "nothing at all",
        list: "list",
        str: "text",
        int: "number",
        float: "number",
        bool: "truth value",
    }
    return names.get(type(value), type(value).__name__)
