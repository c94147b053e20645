"""Ports that a server can come back to."""

from __future__ import annotations

import socket

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
