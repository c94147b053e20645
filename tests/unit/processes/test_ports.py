"""Ports, and who holds them."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstay.processes import ports
from mainstay.processes.ports import (
    Holder,
    _first_ephemeral_port,
    holder,
    is_free,
    steady_port,
)


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_somebody_listens_on_is_not_free(listening: int) -> None:
    assert not is_free(listening)
    assert not is_free(listening, "0.0.0.0")  # noqa: S104
    assert is_free(steady_port())


def test_the_holder_of_a_port_is_named_by_id_and_command_line(listening: int) -> None:
    found = holder(listening)
    assert found is not None
    assert found.pid == os.getpid()
    assert "python" in str(found)
    assert str(os.getpid()) in str(found)


def test_a_free_port_has_no_holder() -> None:
    assert holder(steady_port()) is None


def test_a_holder_that_may_not_be_looked_at_is_another_users() -> None:
    assert str(Holder(80, None, "")) == "a process of another user"


@pytest.mark.skipif(sys.platform != "linux", reason="the range is the kernel's to tell")
def test_a_steady_port_is_none_that_connections_are_given() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert steady_port() < first


@pytest.mark.parametrize("refused", ["__init__", "bind"])
def test_a_steady_port_is_found_where_none_can_be_reserved(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Any = getattr(socket.socket, refused)

    def refuse(self: socket.socket, *args: Any, **options: Any) -> None:
        family = args[0] if refused == "__init__" and args else self.family
        if family == socket.AF_UNIX:
            raise PermissionError(errno.EACCES, "permission denied")
        original(self, *args, **options)

    monkeypatch.setattr(socket.socket, refused, refuse, raising=False)
    first, second = steady_port(), steady_port()
    assert first != second
    assert max(first, second) < _first_ephemeral_port()


def test_a_port_that_is_reserved_elsewhere_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = steady_port()
    monkeypatch.setattr(ports, "_reserved", set())  # as in another process
    drawn = iter([taken, taken, taken + 1])
    monkeypatch.setattr("random.randrange", lambda *_: next(drawn))
    monkeypatch.setattr(ports, "is_free", lambda port: True)
    assert steady_port() == taken + 1
