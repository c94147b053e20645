"""Where do the processes of one service count together?

Servers that run several processes answer `/metrics` from any one of them. `prometheus_client`
then keeps the numbers in files of one directory, a set of files a process; every process can add
them up. This module finds that directory, names the files so that a reused pid is not taken for
its predecessor, and folds the files of the dead into one, so that nothing counted is lost and
files do not pile up.

=========================================  ====================================================
how the process was started                the directory
=========================================  ====================================================
``PROMETHEUS_MULTIPROC_DIR`` is set        that one
Celery's main process                      a fresh one, by :func:`prepare_for_children`; the
                                           children inherit the variable
uvicorn or granian with workers            one that all children of that parent derive from the
                                           parent's pid and start time
gunicorn                                   likewise, from its arbiter's
anything else                              none: the numbers stay in the process
=========================================  ====================================================

Readers and writers must see one another's pids: one directory a container.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import logging
import multiprocessing
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = [
    "all_processes",
    "find_directory",
    "own_process",
    "prepare_for_children",
    "reap",
    "use_directory",
]

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_logger = logging.getLogger(__name__)

# counter_4711-123456.db is ours; counter_4711.db was made before us, or by another library.
_FILE = re.compile(r"(?P<kind>.+)_(?P<pid>[1-9]\d*)(?:-(?P<start>\d+))?\.db\Z")
_OWNER = re.compile(r"(?P<pid>[1-9]\d*)-(?P<start>\d+)\Z")
_SUMMED = frozenset({"counter", "histogram", "summary"})
# How what two processes use is put together, where it is no sum.
_TOGETHER: dict[str, Callable[[float, float], float]] = {
    "process_start_time_seconds": min,
    "process_max_fds": max,
}


def find_directory() -> Path | None:
    """Return the directory this process counts in, made if need be, or ``None`` for its memory."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        return _directory_of(parent.pid)
    if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"):
        return _directory_of(os.getppid())
    return None


def prepare_for_children() -> Path | None:
    """Make a fresh directory for this process and the children that it will fork.

    To be called in the main process, before the first value and the first fork. Removed when
    the main process ends. A directory that the environment names is kept, and emptied.

    Returns:
        The directory; ``None`` when none can be made, and then only the main process counts.
    """
    if named := os.environ.get(VARIABLE):
        directory = Path(named)
        directory.mkdir(parents=True, exist_ok=True)
        for file in directory.glob("*.db"):
            file.unlink(missing_ok=True)
    else:
        found = _directory_of(os.getpid())
        if found is None:
            return None
        directory = found
        atexit.register(_remove, directory, os.getpid())
    use_directory(directory)
    return directory


def use_directory(directory: Path) -> None:
    """Count in the files of *directory* from now on, in this process and its children.

    To be called before the first value is made: values that exist stay where they are. Doing it
    twice changes nothing.
    """
    from prometheus_client import values

    if os.environ.get(VARIABLE) == str(directory) and values.ValueClass in _value_classes:
        return  # a second class would write over the first one's part of the same files
    directory.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(directory)
    # Chosen by prometheus_client when it is imported, which may be long ago.
    values.ValueClass = values.MultiProcessValue(_identifier)
    _value_classes.append(values.ValueClass)


def reap(directory: Path) -> None:
    """Fold the files of dead processes into files of their own, before they are read.

    Counters and histograms of the dead go on counting; of their gauges, those that say "most
    recent" stay, and those of the living go.
    """
    with _locked(directory):
        for file in directory.glob("*.db"):
            match = _FILE.match(file.name)
            if match is None or _is_alive(int(match["pid"]), match["start"]):
                continue
            _fold(file, match["kind"])
            file.unlink()


def own_process() -> list[Metric]:
    """Return what this process uses: CPU, memory, files."""
    from prometheus_client import PlatformCollector, ProcessCollector

    used = list(ProcessCollector(registry=None).collect()) or _portable()
    return [*used, *PlatformCollector(registry=None).collect()]


def all_processes(directory: Path) -> list[Metric]:
    """Return what all processes that count in *directory* use together.

    The CPU time of a process that died stays in the sum, as of the last time it was asked, so
    that the sum never falls.
    """
    from prometheus_client import PlatformCollector, ProcessCollector

    alive = {_identifier(): os.getpid()}
    for file in directory.glob("*.db"):
        match = _FILE.match(file.name)
        if match is not None and _is_alive(int(match["pid"]), match["start"]):
            alive[f"{match['pid']}-{match['start']}"] = int(match["pid"])
    together: dict[str, Metric] = {}
    cpu: dict[str, float] = {}
    for identifier, pid in alive.items():
        for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            value = metric.samples[0].value
            if metric.name == "process_cpu_seconds":
                cpu[identifier] = value
            known = together.setdefault(metric.name, metric)
            if known is not metric:
                before = known.samples[0]
                put_together = _TOGETHER.get(metric.name, _add)
                value = put_together(before.value, value)
                known.samples[0] = before._replace(value=value)
    if (total := together.get("process_cpu_seconds")) is not None:
        total.samples[0] = total.samples[0]._replace(value=_cpu_of_all(directory, cpu))
    return [*(together.values() or _portable()), *PlatformCollector(registry=None).collect()]


def _add(one: float, other: float) -> float:
    return one + other


def _cpu_of_all(directory: Path, alive: dict[str, float]) -> float:
    with _locked(directory):
        book = directory / "cpu.json"
        known: dict[str, float] = {}
        with suppress(OSError, ValueError):
            known = json.loads(book.read_text("utf-8"))
        dead = known.pop("dead", 0.0) + sum(
            seconds for identifier, seconds in known.items() if identifier not in alive
        )
        book.write_text(json.dumps({**alive, "dead": dead}), "utf-8")
    return dead + sum(alive.values())


def _portable() -> list[Metric]:
    """Return what can be told where there is no /proc, as on macOS."""
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    times = os.times()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [
        CounterMetricFamily(
            "process_cpu_seconds_total", "CPU time spent", value=times.user + times.system
        ),
        GaugeMetricFamily(
            "process_max_resident_memory_bytes",
            "The most memory it ever held",
            value=peak if sys.platform == "darwin" else peak * 1024,  # kibibytes but for macOS
        ),
    ]


def _fold(file: Path, kind: str) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    if kind not in _SUMMED and kind != "gauge_mostrecent":
        return
    kept = MmapedDict(str(file.with_name(f"{kind}_0.db")))
    for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(file)):
        before, when = kept.read_value(key)
        if kind in _SUMMED:
            kept.write_value(key, before + value, 0.0)
        elif timestamp >= when:
            kept.write_value(key, value, timestamp)
    kept.close()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # Two readers must not fold one file twice.
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _directory_of(owner: int) -> Path | None:
    start = _start_time(owner) or _start_time_by_ps(owner)
    try:
        base = Path(tempfile.gettempdir()) / f"mainstay-{os.getuid()}"
        base.mkdir(mode=0o700, exist_ok=True)
        facts = base.lstat()
        if facts.st_uid != os.getuid() or not stat.S_ISDIR(facts.st_mode) or facts.st_mode & 0o077:
            raise PermissionError(f"{base} belongs to somebody else or is open to others")
        _sweep(base)
        directory = base / f"{owner}-{start}"
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        _logger.warning(
            "metrics of several processes cannot be added up, each counts alone: %s; "
            "set %s to a directory that can be written",
            error,
            VARIABLE,
        )
        return None
    return directory


def _sweep(base: Path) -> None:
    for directory in base.iterdir():
        match = _OWNER.match(directory.name)
        if match is not None and not _is_alive(int(match["pid"]), match["start"]):
            shutil.rmtree(directory, ignore_errors=True)


def _remove(directory: Path, owner: int) -> None:
    if os.getpid() == owner:  # children inherit what runs at exit
        shutil.rmtree(directory, ignore_errors=True)


# Those that name their files as we do.
_value_classes: list[type] = []
# By pid, since a fork copies it. One entry in all but a child that was forked.
_identifiers: dict[int, str] = {}


def _identifier() -> str:
    """Return this process' part of a file name; asked at every increment."""
    pid = os.getpid()
    known = _identifiers.get(pid)
    if known is None:
        known = _identifiers[pid] = f"{pid}-{_start_time(pid) or time.time_ns()}"
    return known


def _is_alive(pid: int, start: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now = _start_time(pid)
    return start is None or now is None or now == start


def _start_time(pid: int) -> str | None:
    """Return when *pid* was started, in clock ticks since boot; ``None`` where /proc is missing."""
    with suppress(OSError, IndexError):
        # The command in the second field may hold spaces and brackets: count from behind it.
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    return None


def _start_time_by_ps(pid: int) -> str:
    """Return when *pid* was started, in seconds since 1970, for systems without /proc."""
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        shown = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
            env={**os.environ, "LC_ALL": "C"},
        ).stdout.strip()
        return str(int(time.mktime(time.strptime(shown))))
    return "0"
