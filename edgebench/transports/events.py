"""Reads what the agent says on its standard output: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable

from edgebench.transports.base import Event, OnEvent


def follow(lines: Iterable[str], on_event: OnEvent) -> Event | None:
    """Pass events on until the last one; gives "end" or "error", or None where the agent died."""
    for line in lines:
        event = parse_line(line)
        if event is None or "event" not in event:
            continue
        if event["event"] == "error":
            return event
        on_event(event)
        if event["event"] == "end":
            return event
    return None


def last_object(text: str) -> Event | None:
    """The last line that is a JSON object, or None."""
    found = (parse_line(line) for line in reversed(text.splitlines()))
    return next((event for event in found if event is not None), None)


def parse_line(line: str) -> Event | None:
    """The JSON object on a line; None for anything else, e.g. a greeting of the login shell."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def last_line(text: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
