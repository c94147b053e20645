"""One socket to Redis: commands are piled up and go out together, and nothing ever blocks.

A client for general use would cost more per call than the call itself; here are only the few
commands of this room, of which the answers come in the order of the questions.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

__all__ = ["Connection", "RedisError"]

Argument = str | bytes | int | float
RedisError = hiredis.ReplyError

_CHUNK = 65_536


class Connection:
    """An open connection.

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
        self._socket = _connect(url, timeout_seconds)
        self._socket.setblocking(False)
        try:
            for command in _greeting(url):
                self.ask(*command)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def push(self, *command: Argument) -> None:
        """Pile up *command*; :meth:`flush` sends it."""
        self._out.append(hiredis.pack_command(command))  # type: ignore[arg-type] # stub says one

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    def flush(self) -> None:
        """Send what the socket takes now."""
        if not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            # The same bytes again next time: a TLS socket insists on it.
            self._out = [data]
        else:
            self._out = [data[sent:]] if sent < len(data) else []

    def read(self) -> list[Any]:
        """Return the answers that are here; errors of the server are values among them.

        Raises:
            OSError: The connection is gone.
        """
        answers: list[Any] = []
        while True:
            try:
                data = self._socket.recv(_CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return answers
            if not data:
                raise ConnectionResetError("Redis closed the connection")
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                answers.append(answer)
            if len(data) < _CHUNK and not isinstance(self._socket, ssl.SSLSocket):
                return answers

    def ask(self, *command: Argument) -> Any:
        """Send *command*, wait for its answer and return it; for the time before serving.

        Raises:
            RedisError: The server refuses.
            OSError: The connection is gone, or no answer came in time.
        """
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """As :meth:`ask`, for many commands in one round trip; the first refusal is raised."""
        for command in commands:
            self.push(*command)
        answers: list[Any] = []
        poll = select.poll()
        while len(answers) < len(commands):
            self.flush()
            poll.register(self, select.POLLIN | (select.POLLOUT if self.wants_write else 0))
            if not poll.poll(self._timeout_seconds * 1000):
                raise TimeoutError("Redis did not answer in time")
            answers += self.read()
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer
        return answers

    def close(self) -> None:
        with suppress(OSError):
            self._socket.close()


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
