"""Where do lines go? One write a line, to standard output or to a stream."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from typing import BinaryIO, TextIO

__all__ = ["Output"]

# Longer than any reader that is alive takes to make room; then the line is dropped.
_BLOCKED_SECONDS = 1.0


class Output:
    """Standard output, as it is at the moment of writing, or *stream*.

    A line goes out in one system call, so that lines of several processes and threads on one
    pipe stay whole without a lock (up to ``PIPE_BUF``, which POSIX promises).
    """

    def __init__(self, stream: BinaryIO | None) -> None:
        self._stream = stream
        self._is_given = stream is not None
        self._stdout: TextIO | None = None
        self._fd = -1

    def write(self, line: bytes) -> None:
        """Write *line*; one that nobody can take any more is dropped."""
        try:
            if sys.stdout is not self._stdout and not self._is_given:
                self._find()
            if self._fd >= 0:
                written = os.write(self._fd, line)
                if written < len(line):
                    self._write_rest(line[written:])
            elif self._stream is not None:
                self._stream.write(line)
                self._stream.flush()
        except BlockingIOError:  # a pipe that does not block, and is full for the moment
            self._write_rest(line)
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

    def _find(self) -> None:
        self._stdout = stdout = sys.stdout
        # Celery puts an object there that logs what is printed: writing to it would come back.
        stream = getattr(stdout, "buffer", None) or getattr(sys.__stdout__, "buffer", None)
        self._stream, self._fd = stream, -1
        if stream is not None:
            with suppress(OSError, ValueError):
                self._fd = stream.fileno()

    def _write_rest(self, rest: bytes) -> None:
        with suppress(OSError, ValueError):
            while rest and select.select([], [self._fd], [], _BLOCKED_SECONDS)[1]:
                with suppress(BlockingIOError):  # another process was quicker
                    rest = rest[os.write(self._fd, rest) :]
