"""Where can a test make a process fail, at a point of the code that it chose?

The code names the moments at which a death would matter: ``failpoints.reach("keys.after_claim")``.
That does nothing, until ``MAINSTAY_FAILPOINT`` says what shall happen there::

    MAINSTAY_FAILPOINT=keys.after_claim:kill           at each arrival
    MAINSTAY_FAILPOINT=keys.after_claim:kill@3         at the third arrival in a process
    MAINSTAY_FAILPOINT=relay.after_publish:kill%30     at 30 of 100 arrivals; %0.1 is one of 1,000
    MAINSTAY_FAILPOINT=relay.before_mark:sleep=2,tasks.after_commit:raise

``kill`` ends the process as SIGKILL does, ``stop`` freezes it until SIGCONT, ``sleep=SECONDS``
holds the thread, ``raise`` raises `FailpointReached`. Each is told on standard error before it is
done. Outside of ``dev`` and ``test`` a process that finds the variable refuses to start.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mainstay.errors import MainstayError, Misconfigured

__all__ = [
    "POINTS",
    "VARIABLE",
    "FailpointReached",
    "arm",
    "arm_from_environment",
    "disarm",
    "is_armed",
    "reach",
]

VARIABLE = "MAINSTAY_FAILPOINT"
POINTS = frozenset(
    {
        "beat.after_send",
        "beat.before_send",
        "keys.after_answer",
        "keys.after_claim",
        "keys.after_commit",
        "keys.after_effect",
        "keys.before_answer",
        "keys.before_claim",
        "keys.before_commit",
        "outbox.after_commit",
        "outbox.before_commit",
        "relay.after_claim",
        "relay.after_publish",
        "relay.before_mark",
        "rpc.after_reply",
        "rpc.before_reply",
        "rpc.before_work",
        "tasks.after_commit",
        "tasks.before_commit",
    }
)
"""Every point that the code names: what waits for another one would wait for ever."""

_FORM = re.compile(
    r"(?P<name>[a-z_]+(?:\.[a-z_]+)*):(?P<action>kill|stop|raise|sleep=(?P<seconds>\d+(?:\.\d+)?))"
    r"(?:@(?P<arrival>[1-9]\d*)|%(?P<percent>\d{1,2}(?:\.\d+)?|100))?"
)


class FailpointReached(MainstayError):
    """A failpoint was told to raise."""


@dataclass
class _Point:
    action: str
    act: Callable[[str], None]
    arrival: int | None = None
    percent: float | None = None
    arrived: int = field(default=0, init=False)

    def reach(self, name: str) -> None:
        self.arrived += 1
        if self.arrival is not None and self.arrived != self.arrival:
            return
        # Seeded by nobody: a forked child must not repeat its parent's luck.
        if self.percent is not None and _luck.random() * 100 >= self.percent:
            return
        # Past every buffer, and a trace of which one it was when nothing else is left.
        os.write(2, f"failpoint {name}: {self.action}\n".encode())
        self.act(name)


_luck = random.SystemRandom()
_points: dict[str, _Point] = {}


def reach(name: str) -> None:
    """Do what was asked for at *name*: outside of tests, nothing."""
    if _points and (point := _points.get(name)) is not None:
        point.reach(name)


def is_armed(name: str) -> bool:
    """Will anything happen at *name*? Asked where the way there is another one then."""
    return name in _points


def arm(asked: str) -> None:
    """Have happen what *asked* says, in the form of ``MAINSTAY_FAILPOINT``; replaces what was.

    Raises:
        Misconfigured: It has another form, or names a point that the code does not have.
    """
    points = {}
    for one in filter(None, map(str.strip, asked.split(","))):
        found = _FORM.fullmatch(one)
        if found is None:
            raise Misconfigured(
                f"{VARIABLE}: {one!r} is not accepted; accepted is NAME:ACTION with an optional "
                "@ARRIVAL or %PERCENT, where ACTION is kill, stop, raise or sleep=SECONDS"
            )
        if found["name"] not in POINTS:
            raise Misconfigured(
                f"{VARIABLE}: there is no point {found['name']!r}; there are "
                f"{', '.join(sorted(POINTS))}"
            )
        arrival, percent = found["arrival"], found["percent"]
        points[found["name"]] = _Point(
            found["action"],
            _action(found["action"].partition("=")[0], float(found["seconds"] or 0)),
            int(arrival) if arrival else None,
            float(percent) if percent else None,
        )
    disarm()
    _points.update(points)


def disarm() -> None:
    """Have nothing happen anywhere."""
    _points.clear()


def arm_from_environment(*, is_allowed: bool) -> None:
    """Arm what the environment asks for, in a process that starts.

    Raises:
        Misconfigured: It asks for something where that is not allowed.
    """
    asked = os.environ.get(VARIABLE, "")
    if not asked:
        return
    if not is_allowed:
        raise Misconfigured(
            f"{VARIABLE} is set, and a process that may fail on purpose starts in dev and test "
            "alone: remove the variable"
        )
    arm(asked)


def _action(action: str, seconds: float) -> Callable[[str], None]:
    def fail(name: str) -> None:
        raise FailpointReached(f"the failpoint {name} was told to raise")

    return {
        "kill": lambda _name: os.kill(os.getpid(), signal.SIGKILL),
        "stop": lambda _name: os.kill(os.getpid(), signal.SIGSTOP),
        "sleep": lambda _name: time.sleep(seconds),
        "raise": fail,
    }[action]
