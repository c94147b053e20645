"""Bytes go out in their order, whoever sends them, and nobody waits for the other side."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from mainstay.rpc.bytestream import STALL_SECONDS, ByteStream
from mainstay.testing.wait import eventually
from tests.waiting import join


@pytest.fixture
def pair() -> Iterator[tuple[ByteStream, socket.socket]]:
    mine, theirs = socket.socketpair()
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    stream = ByteStream(mine)
    with theirs:
        yield stream, theirs
    stream.close()


Pair = tuple[ByteStream, socket.socket]


def test_what_the_socket_does_not_take_goes_out_later_in_its_order(pair: Pair) -> None:
    stream, theirs = pair
    sent = [bytes([n]) * 5000 for n in range(100)]
    for one in sent:
        stream.send(one)
    assert stream.wants_write
    received = b""
    while len(received) < 500_000:
        received += theirs.recv(65_536)
        stream.flush()
    assert received == b"".join(sent)
    assert not stream.wants_write


def test_threads_that_send_at_once_do_not_cut_into_each_other(pair: Pair) -> None:
    stream, theirs = pair

    def send(mark: int) -> None:
        for _ in range(50):
            stream.send(bytes([mark]) * 999 + b"\n")

    threads = [threading.Thread(target=send, args=(mark,)) for mark in range(65, 73)]
    for thread in threads:
        thread.start()
    received = b""
    while len(received) < 8 * 50 * 1000:
        received += theirs.recv(65_536)
        stream.flush()
    join(*threads)
    assert {(len(line), len(set(line))) for line in received.split(b"\n")[:-1]} == {(999, 1)}


def test_nothing_to_read_is_nothing_and_an_end_is_an_error(pair: Pair) -> None:
    stream, theirs = pair
    assert stream.receive() == b""
    theirs.sendall(b"something")
    assert stream.receive() == b"something"
    theirs.close()
    with pytest.raises(ConnectionResetError):
        stream.receive()


def test_who_takes_nothing_for_too_long_is_given_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, theirs = pair
    now = 100.0
    monkeypatch.setattr("mainstay.rpc.bytestream.time.monotonic", lambda: now)
    stream.send(b"x" * 1_000_000)
    stream.flush()
    now += STALL_SECONDS * 0.9
    stream.flush()
    taken = theirs.recv(65_536)
    assert taken
    stream.flush()
    now += STALL_SECONDS * 0.9
    stream.flush()
    now += STALL_SECONDS * 0.2
    with pytest.raises(TimeoutError):
        stream.flush()


def test_a_stream_that_was_closed_sends_nothing(pair: Pair) -> None:
    stream, theirs = pair
    stream.close()
    stream.close()
    with pytest.raises(ConnectionResetError):
        stream.send(b"too late")
    eventually(lambda: theirs.recv(1) == b"")
