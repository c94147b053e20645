"""Ports, and who holds them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstay.processes.ports import Holder, holder, is_free, steady_port


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
