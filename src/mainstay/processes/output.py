"""What a developer sees: the lines of all processes, each with its name and colour in front."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import BinaryIO

__all__ = ["Output", "wants_colour"]

_COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
_SELF = "mainstay"


class Output:
    """Writes whole lines, from any thread.

    Args:
        names: The processes whose lines come, for the width of the column and the colours.
        colour: Colour the names; as the terminal and ``NO_COLOR`` say unless told.
        stream: Where to write; the standard output unless told.
    """

    def __init__(
        self, names: Iterable[str], *, colour: bool | None = None, stream: BinaryIO | None = None
    ) -> None:
        names = list(names)
        self._stream = stream or sys.stdout.buffer
        self._colour = wants_colour(os.environ) if colour is None else colour
        self._width = max(map(len, [_SELF, *names]))
        self._colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
        self._lock = threading.Lock()

    def line(self, name: str, text: bytes) -> None:
        """Write one line of the process *name*."""
        self._write(self._prefix(name) + text.rstrip(b"\r\n") + b"\n")

    def note(self, text: str) -> None:
        """Write what the supervisor itself has to say; each line of *text* with its name."""
        prefix = self._prefix(_SELF)
        self._write(b"".join(prefix + line.encode() + b"\n" for line in text.splitlines()))

    def block(self, text: str) -> None:
        """Write *text* as it is."""
        self._write(text.encode())

    def _prefix(self, name: str) -> bytes:
        column = f"{name:<{self._width}} |"
        if self._colour:
            column = f"\033[{self._colours.get(name, '1')}m{column}\033[0m"
        return f"{column} ".encode()

    def _write(self, content: bytes) -> None:
        with self._lock:
            try:
                self._stream.write(content)
                self._stream.flush()
            except (OSError, ValueError):
                pass  # the terminal is gone; what runs must still be stopped in order


def wants_colour(environ: Mapping[str, str]) -> bool:
    """Tell whether the standard output is a terminal that may be coloured (no-color.org)."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb" and sys.stdout.isatty()
