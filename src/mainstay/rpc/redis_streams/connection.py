"""One socket to Redis: commands are piled up and go out together, and nothing ever blocks.

A client for general use would cost more per call than the call itself; here are only the few
commands of this room, of which the answers come in the order of the questions.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from mainstay.rpc.bytestream import ByteStream

__all__ = ["Argument", "Connection", "Heard", "RedisError"]

Argument = str | bytes | int | float
Heard = Callable[[Any], object]
RedisError = hiredis.ReplyError


class Connection:
    """An open connection. Any thread may push commands and flush them; one thread reads.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads them.
        timeout_seconds: How long connecting, and each :meth:`ask`, may take.

    Raises:
        OSError: The server cannot be reached.
        RedisError: It refuses.
    """

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._reader = hiredis.Reader()
        self._out: list[bytes] = []
        self._asked: deque[Heard] = deque()
        self._lock = threading.Lock()
        self._stream = ByteStream(_connect(url, timeout_seconds))
        try:
            for command in _greeting(url):
                self.ask(*command)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def is_shared(self) -> bool:
        """May other threads than the one that reads flush?"""
        return self._stream.is_shared

    @property
    def wants_write(self) -> bool:
        return bool(self._out) or self._stream.wants_write

    @property
    def has_asked(self) -> bool:
        """Is there an answer still to come?"""
        return bool(self._asked)

    def push(self, heard: Heard, *command: Argument) -> None:
        """Pile up *command*; :meth:`flush` sends it, and *heard* is told of its answer."""
        packed = hiredis.pack_command(command)  # type: ignore[arg-type] # stub says one
        with self._lock:
            self._asked.append(heard)
            self._out.append(packed)

    def flush(self) -> None:
        """Send what the socket takes now.

        Raises:
            OSError: The connection is gone.
        """
        with self._lock:
            out, self._out = self._out, []
            if out:
                self._stream.send(out[0] if len(out) == 1 else b"".join(out))
                return
        if self._stream.wants_write:
            self._stream.flush()

    def read(self) -> None:
        """Tell of the answers that are here; errors of the server are values among them.

        Raises:
            OSError: The connection is gone.
        """
        data = self._stream.receive()
        if data:
            reader, asked = self._reader, self._asked
            reader.feed(data)
            while (answer := reader.gets()) is not False:
                asked.popleft()(answer)

    def ask(self, *command: Argument) -> Any:
        """Send *command*, wait for its answer and return it; for the time before serving.

        Raises:
            RedisError: The server refuses.
            OSError: The connection is gone, or no answer came in time.
        """
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """As :meth:`ask`, for many commands in one round trip; the first refusal is raised."""
        answers: list[Any] = []
        for command in commands:
            self.push(answers.append, *command)
        until = time.monotonic() + self._timeout_seconds
        poll = select.poll()
        while len(answers) < len(commands):
            self.flush()
            poll.register(self, self.events)
            if not poll.poll(max(until - time.monotonic(), 0.0) * 1000):
                raise TimeoutError("Redis did not answer in time")
            self.read()
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer
        return answers

    @property
    def events(self) -> int:
        """What to poll for."""
        return select.POLLIN | select.POLLOUT if self.wants_write else select.POLLIN

    def close(self) -> None:
        self._stream.close()


def _connect(url: str, timeout_seconds: float) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.settimeout(timeout_seconds)
        try:
            plain.connect(parts.path)
        except BaseException:
            plain.close()
            raise
        return plain
    host = parts.hostname or "localhost"
    plain = socket.create_connection((host, parts.port or 6379), timeout_seconds)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if parts.scheme != "rediss":
        return plain
    options = parse_qs(parts.query)
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs", [None])[0])
    if options.get("ssl_cert_reqs") == ["none"]:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif options.get("ssl_check_hostname", ["true"])[0].lower() == "false":
        context.check_hostname = False
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _greeting(url: str) -> list[tuple[Argument, ...]]:
    parts = urlsplit(url)
    commands: list[tuple[Argument, ...]] = []
    if parts.password:
        user = (unquote(parts.username),) if parts.username else ()
        commands.append(("AUTH", *user, unquote(parts.password)))
    chosen = parse_qs(parts.query).get("db", [""])[0]
    database = chosen or ("" if parts.scheme == "unix" else parts.path.strip("/"))
    if database not in ("", "0"):
        commands.append(("SELECT", database))
    return commands
