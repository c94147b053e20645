"""Where do lines go? One write a line, to standard output or to a stream; never for long."""

from __future__ import annotations

import atexit
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, TextIO
from weakref import WeakSet

__all__ = ["Output"]

# What is kept of lines that nobody reads.
_MOST_BYTES = 4 * 1024 * 1024
_POLL_MS = 1000
# How long the end of a process may wait for who reads its lines.
_END_SECONDS = 1.0


class Output:
    """Standard output, as it is at the moment of writing, or *stream*.

    A line goes out in one system call, so that lines of several processes and threads on one
    pipe stay whole without a lock (up to ``PIPE_BUF``, which POSIX promises).

    No line waits for whoever reads a pipe. While it is full, up to four megabytes are kept, and
    written by a thread, in order; what does not fit there is dropped, and counted.

    Args:
        stream: Where to write, instead of standard output.
        dropped: Called with how many lines are dropped, whenever some are.
        told: Called with how many were, when the pipe takes lines again.
    """

    def __init__(
        self,
        stream: BinaryIO | None,
        *,
        dropped: Callable[[int], object] = lambda _lines: None,
        told: Callable[[int], object] = lambda _lines: None,
    ) -> None:
        self._stream = stream
        self._is_given = stream is not None
        self._dropped = dropped
        self._told = told
        self._stdout: TextIO | None = None
        self._fd = -1
        self._may_wait = False
        self._own_ends: dict[tuple[int, int], int] = {}
        self.forget()
        _made.add(self)

    def forget(self) -> None:
        """In a forked child: what waits is the parent's to write."""
        self._lock = threading.RLock()  # a signal's handler may write while its thread does
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._writer: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Write *line*, or several; what nobody can take any more is dropped."""
        try:
            if sys.stdout is not self._stdout and not self._is_given:
                self._find()
            if self._fd < 0:
                if self._stream is not None:
                    self._stream.write(line)
                    self._stream.flush()
            elif self._may_wait or len(line) > select.PIPE_BUF:
                with self._lock:  # it may go out in pieces
                    self._write_or_keep(line)
            else:
                self._write_or_keep(line)
        except (OSError, ValueError):  # a closed pipe, a full disk, a closed stream
            return

    @property
    def is_terminal(self) -> bool:
        """Is somebody looking?"""
        with suppress(OSError, ValueError):
            if not self._is_given and sys.stdout is not self._stdout:
                self._find()
            if self._fd >= 0:
                return os.isatty(self._fd)
            return self._stream is not None and self._stream.isatty()
        return False

    def close(self) -> None:
        """Wait a moment for who reads; lines may still be written."""
        writer = self._writer
        if writer is not None and writer.is_alive() and writer is not threading.current_thread():
            writer.join(_END_SECONDS)

    def _find(self) -> None:
        self._stdout = stdout = sys.stdout
        # Celery puts an object there that logs what is printed: writing to it would come back.
        stream = getattr(stdout, "buffer", None) or getattr(sys.__stdout__, "buffer", None)
        self._stream, self._fd, self._may_wait = stream, -1, False
        if stream is None:
            return
        with suppress(OSError, ValueError):
            self._fd = stream.fileno()
            found = os.fstat(self._fd)
            is_pipe = stat.S_ISFIFO(found.st_mode)
            if is_pipe and (own := self._own_end(found)) >= 0:
                self._fd = own
            else:
                self._may_wait = is_pipe or stat.S_ISSOCK(found.st_mode)

    def _own_end(self, found: os.stat_result) -> int:
        """Return a descriptor of our own for a pipe; one for each, as it stays open."""
        pipe = (found.st_dev, found.st_ino)
        if pipe not in self._own_ends and (own := _own(self._fd)) >= 0:
            self._own_ends[pipe] = own
        return self._own_ends.get(pipe, -1)

    def _write_or_keep(self, line: bytes) -> None:
        written = 0
        if self._writer is None:
            written = _write(self._fd, line, may_wait=self._may_wait)
            if written == len(line):
                return
        self._keep(line[written:], is_rest=written > 0)

    def _keep(self, line: bytes, *, is_rest: bool) -> None:
        """Have *line* written later; the rest of one whose beginning is out, in any case."""
        lost = 0
        with self._lock:
            if is_rest or self._waiting_bytes + len(line) <= _MOST_BYTES:
                self._waiting.append(line)
                self._waiting_bytes += len(line)
                lost = 0 if self._writer is not None or self._begin() else 1
            else:
                lost = line.count(b"\n") or 1
                self._lost += lost
        if lost:
            self._dropped(lost)

    def _begin(self) -> bool:
        writer = threading.Thread(
            target=self._write_on,
            args=(self._fd, self._may_wait),
            name="mainstay-log-output",
            daemon=True,
        )
        try:
            writer.start()
        except RuntimeError:  # this process may have no more threads, or ends
            self._waiting.clear()
            self._waiting_bytes = 0
            return False
        self._writer = writer
        return True

    def _write_on(self, fd: int, may_wait: bool) -> None:
        """Write what waits, as whoever reads makes room for it."""
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while True:
            poll.poll(_POLL_MS)
            with self._lock:
                line = self._waiting[0]
                try:
                    written = _write(fd, line, may_wait=may_wait)
                except (OSError, ValueError):  # nobody will ever read it
                    written = len(line)
                self._waiting_bytes -= written
                if written < len(line):
                    self._waiting[0] = line[written:]
                    continue
                self._waiting.popleft()
                if not self._waiting:
                    lost, self._lost, self._writer = self._lost, 0, None
                    break
        if lost:
            self._told(lost)


def _own(fd: int) -> int:
    """Open the pipe *fd* once more, so that writing to it does not wait while other processes that
    have it may. -1 where the system does not allow that.
    """
    with suppress(OSError):
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
    return -1


def _write(fd: int, line: bytes, *, may_wait: bool) -> int:
    """Write what *fd* takes of *line* now; return how many bytes that were.

    Args:
        may_wait: It is a pipe or a socket whose reader may be slow, and waits for it: so that it is
            asked whether it has room, and given as much as it has then (``PIPE_BUF``). Another
            process that has it may be quicker.
    """
    try:
        if not may_wait:
            return os.write(fd, line)
        poll, written = select.poll(), 0
        poll.register(fd, select.POLLOUT)
        while written < len(line) and poll.poll(0):
            written += os.write(fd, line[written : written + select.PIPE_BUF])
        return written
    except BlockingIOError:
        return 0


_made: WeakSet[Output] = WeakSet()


def _forked() -> None:
    for output in _made:
        output.forget()


def _end() -> None:
    for output in list(_made):
        output.close()


os.register_at_fork(after_in_child=_forked)
atexit.register(_end)
