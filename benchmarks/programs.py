"""How is another process run, and how much of the processor did it take?"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import orjson

from benchmarks.environments import OURS, ROOT, Environment
from benchmarks.row import Sample
from mainstay.processes.leash import SERVERS, Leash

__all__ = [
    "LaneFailed",
    "Other",
    "Program",
    "Worker",
    "cpu_seconds",
    "memory_bytes",
    "program",
    "worker",
]

_leash = Leash()  # nothing outlives `make bench`, however it ends
_TICK = os.sysconf("SC_CLK_TCK")
_END_SECONDS = 20.0
# What a lane must not inherit: it decides how Python compiles, measures or finds modules.
_NOT_PASSED_ON = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONOPTIMIZE", "VIRTUAL_ENV")


class LaneFailed(Exception):
    """A lane ended early, or its replies were not right."""


class Program:
    """A running process of a lane, and those that it starts."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self.output = output
        self.pid = process.pid

    @property
    def stdin(self) -> IO[bytes]:
        if self._process.stdin is None:
            raise LaneFailed(f"process {self.pid} was started without a standard input")
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        if self._process.stdout is None:
            raise LaneFailed(f"process {self.pid} writes its output to {self.output}")
        return self._process.stdout

    def cpu_seconds(self) -> float:
        """Return what it and its children, living and dead, have taken of the processor so far."""
        return cpu_seconds(self.pid)

    def memory_bytes(self) -> int:
        """Return what it and its living children hold resident."""
        return sum(memory_bytes(pid) for pid in _tree(self.pid))

    def check(self) -> None:
        """Raise when it has ended.

        Raises:
            LaneFailed: It has; the message has the end of its output.
        """
        if self._process.poll() is not None:
            raise LaneFailed(f"a lane ended with {self._process.returncode}:\n{self.last_lines()}")

    def last_lines(self, count: int = 20) -> str:
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-count:])

    def end(self) -> None:
        """Ask it to end, and see to it."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def program(
    command: Sequence[str],
    *,
    output: Path,
    environment: Environment = OURS,
    variables: Mapping[str, str] | None = None,
    is_spoken_to: bool = False,
) -> Iterator[Program]:
    """Run ``python *command`` in *environment* at the root of the repository.

    Args:
        command: What follows ``python``.
        output: The file for what it writes: real lines, as in production, that can be counted.
        environment: Whose Python.
        variables: On top of the environment variables of this process.
        is_spoken_to: Keep standard input and output for a conversation; errors go to *output*.
    """
    passed_on = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [str(environment.python), *command],
            cwd=ROOT,
            env={**passed_on, **(variables or {})},
            stdin=subprocess.PIPE if is_spoken_to else subprocess.DEVNULL,
            stdout=subprocess.PIPE if is_spoken_to else sink,
            stderr=sink if is_spoken_to else subprocess.STDOUT,
            start_new_session=True,
        )
        _leash.hold(process.pid, SERVERS)
        running = Program(process, output)
        try:
            yield running
        finally:
            running.end()
            _leash.release(process.pid)


class Working(Protocol):
    """What takes the processor."""

    def cpu_seconds(self) -> float: ...


@dataclass(frozen=True)
class Other:
    """A process that was not started here, such as a server of `mainstay.testing`."""

    pid: int | None

    def cpu_seconds(self) -> float:
        """Return what it and its children have taken of the processor so far."""
        if self.pid is None:
            raise LaneFailed("a server is down")
        return cpu_seconds(self.pid)


class Worker:
    """A script of ``lanes/`` that does rounds when it is asked: see ``lanes/asked.py``."""

    def __init__(self, program: Program, servers: Sequence[Working]) -> None:
        self.program = program
        self._servers = servers

    def round(self, units: int) -> Sample:
        """Have it do *units*; the CPU is its own and that of the servers it was given."""
        measured = (self.program, *self._servers)
        before = sum(one.cpu_seconds() for one in measured)
        self.program.stdin.write(b"%d\n" % units)
        self.program.stdin.flush()
        line = self.program.stdout.readline()
        if not line:
            self.program.check()
            raise LaneFailed(f"a lane closed its output:\n{self.program.last_lines()}")
        told = orjson.loads(line)
        after = sum(one.cpu_seconds() for one in measured)
        if told["units"] != units:
            raise LaneFailed(f"a lane did {told['units']} of {units} units")
        return Sample(units, after - before, told["wall_seconds"], told.get("others", {}))


@contextmanager
def worker(
    module: str,
    *arguments: str,
    output: Path,
    environment: Environment = OURS,
    variables: Mapping[str, str] | None = None,
    servers: Sequence[Working] = (),
) -> Iterator[Worker]:
    """Run ``python -m module`` and ask it for rounds.

    Args:
        servers: Processes whose CPU counts too.
    """
    with program(
        ["-m", module, *arguments],
        output=output,
        environment=environment,
        variables=variables,
        is_spoken_to=True,
    ) as running:
        yield Worker(running, servers)


def cpu_seconds(pid: int) -> float:
    """Return what process *pid* and all below it, living and dead, have taken so far.

    To the nanosecond for the living, by their clocks; to a hundredth of a second for the dead.
    """
    return sum(_own_seconds(one) for one in _tree(pid))


def _own_seconds(pid: int) -> float:
    try:
        # The clock of another process, as clock_getcpuclockid(3) names it.
        own = time.clock_gettime((~pid << 3) | 2)
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # it has just ended; its parent has the sum
        return 0.0
    return own + (int(stat[13]) + int(stat[14])) / _TICK


def memory_bytes(pid: int) -> int:
    """Return what process *pid* holds resident; 0 when there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _tree(pid: int) -> list[int]:
    """Return *pid* and all that descend from it."""
    found = [pid]
    for one in found:
        for tasks in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, tasks.read_text().split())
    return found
