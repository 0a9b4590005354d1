from __future__ import annotations

import pytest

from edgebench.errors import UsageError
from edgebench.transports.ssh_connection import Host, _user_options, parse_host


@pytest.mark.parametrize(
    ("text", "user", "address", "port", "for_sftp"),
    [
        ("board", None, "board", None, "board"),
        ("nv@board.local:2222", "nv", "board.local", 2222, "nv@board.local"),
        ("nv@10.0.0.7", "nv", "10.0.0.7", None, "nv@10.0.0.7"),
        ("nv@[::1]:22", "nv", "::1", 22, "nv@[::1]"),
        ("[fe80::1%eth0]", None, "fe80::1%eth0", None, "[fe80::1%eth0]"),
        ("fe80::1", None, "fe80::1", None, "[fe80::1]"),
    ],
)
def test_hosts(text: str, user: str | None, address: str, port: int | None, for_sftp: str) -> None:
    host = parse_host(text)
    assert host == Host(text, user, address, port)
    assert host.for_sftp == for_sftp
    assert host.for_ssh == (f"{user}@{address}" if user else address)


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "a b", "-oProxyCommand=x", "u@-oProxyCommand=x", "-u@board", "board:"),
        *("board:99999", "board:0", "u@$(id)", "a;b", "[::1", "u@[board]x"),
    ],
)
def test_what_is_not_a_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_host(text)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("", []),
        ("-F '/a b/config' -i key", ["-F", "/a b/config", "-i", "key"]),
        ("-p 2222 -l nv", ["-o", "Port=2222", "-o", "User=nv"]),
    ],
)
def test_options_that_ssh_and_sftp_both_take(
    given: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBENCH_SSH_OPTIONS", given)
    assert _user_options() == options


def test_options_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_SSH_OPTIONS", "-F 'open")
    with pytest.raises(UsageError, match="EDGEBENCH_SSH_OPTIONS"):
        _user_options()
