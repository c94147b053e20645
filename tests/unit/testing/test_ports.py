"""Ports that a server can come back to."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from mainstay.testing.ports import steady_port


def test_a_port_is_given_once() -> None:
    ports = [steady_port() for _ in range(50)]
    assert len(set(ports)) == 50


def test_no_outgoing_connection_is_given_such_a_port() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        ephemeral = client.getsockname()[1]
    assert steady_port() < ephemeral


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's own")
def test_a_port_is_given_to_one_process_at_a_time() -> None:
    program = """
import sys
from mainstay.processes import ports
ports.random.randrange = lambda *_, numbers=map(int, sys.argv[1:]): next(numbers)
print(ports.steady_port())
"""
    given, other = steady_port(), steady_port()
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    command = [sys.executable, "-c", program, str(given), str(other), str(free)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == free
