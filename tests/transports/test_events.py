from __future__ import annotations

from typing import Any

from edgebench.transports.events import follow, last_line, last_object


def test_greetings_of_a_login_shell_are_passed_over() -> None:
    seen: list[dict[str, Any]] = []
    lines = ["Welcome!\n", "42\n", '{"event": "start"}\n', "{\n", '{"event": "end"}\n', "bye\n"]
    assert follow(lines, seen.append) == {"event": "end"}
    assert [e["event"] for e in seen] == ["start", "end"]


def test_error_ends_it_and_is_not_passed_on() -> None:
    seen: list[dict[str, Any]] = []
    error = '{"event": "error", "problem": "p", "code": "runtime"}'
    assert follow([error, '{"event": "end"}'], seen.append) is not None
    assert seen == []


def test_agent_that_stops_in_the_middle() -> None:
    assert follow(['{"event": "start"}'], lambda event: None) is None


def test_last_object_and_last_line() -> None:
    assert last_object('hello\n{"a": 1}\nbye\n') == {"a": 1}
    assert last_object("hello") is None
    assert last_line("a\n b \n\n") == "b"
    assert last_line("") == ""
