"""Run the fault scenarios and print their reconciliation: `make chaos SEED=7 ONLY=1,16`."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from mainstay.testing import PostgreSQL, RabbitMQ, Redis
from tests.chaos.playing import Result, play
from tests.chaos.scenarios import SCENARIOS, LeftOut, Scenario
from tests.chaos.stage import DURABLE, Servers
from tests.watchdog import guard

_VERSIONS = ("mainstay", "celery", "kombu", "amqp", "redis", "sqlalchemy", "psycopg", "fastapi")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 when every reconciliation balances."""
    asked = _parser().parse_args(arguments)
    chosen = [one for one in SCENARIOS if _is_asked_for(one, asked.only)]
    results: list[Result] = []
    failed = 0
    began = time.monotonic()
    with ExitStack() as stack:
        say = _Said(stack.enter_context(asked.log.open("w")) if asked.log else None)
        if not chosen:
            say(f"no scenario is called {asked.only}; there are {_numbers()}")
            return 2
        say(f"seed {asked.seed}, size {asked.size}, {len(chosen)} scenarios")
        say(f"Python {platform.python_version()}, " + ", ".join(map(_version, _VERSIONS)))
        servers = Servers(
            stack.enter_context(PostgreSQL()),
            stack.enter_context(RabbitMQ()),
            stack.enter_context(Redis(config=DURABLE)),
        )
        say(", ".join(f"{name} {version}" for name, version in servers.versions().items()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mainstay-chaos-")))
        for scenario in chosen:
            place = folder / scenario.id
            place.mkdir()
            try:
                result = play(scenario, servers, place, seed=asked.seed, size=asked.size, say=say)
            except LeftOut as reason:
                say(f"left out {scenario.id}: {reason}")
                continue
            except Exception as error:  # noqa: BLE001 - the others are played all the same
                failed += 1
                say(f"FAIL {scenario.id} seed={asked.seed}: {type(error).__name__}: {error}")
                traceback.print_exception(error, limit=-4, file=sys.stderr)
                continue
            results.append(result)
            failed += not result.is_good
            say(str(result))
        say(_total(results, time.monotonic() - began))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--size", choices=("short", "full"), default="short")
    parser.add_argument(
        "--only", default="", help="numbers of scenarios, or parts of their names, with commas"
    )
    parser.add_argument("--log", type=Path, help="a file that gets what is said here, too")
    return parser


def _is_asked_for(scenario: Scenario, only: str) -> bool:
    words = [word.strip() for word in only.split(",") if word.strip()]
    return not words or any(
        word == str(scenario.number) or (not word.isdigit() and word in scenario.id)
        for word in words
    )


def _numbers() -> list[int]:
    return sorted({one.number for one in SCENARIOS})


def _version(name: str) -> str:
    return f"{name} {importlib.metadata.version(name)}"


def _total(results: Sequence[Result], seconds: float) -> str:
    faults: Counter[str] = Counter()
    for result in results:
        faults.update(result.faults)
    books = [result.books for result in results if result.scenario.keeps_books]
    sums = {
        name: sum(getattr(each, name) for each in books)
        for name in ("accepted", "stored", "done", "dead", "lost", "double", "phantom", "redone")
    }
    told = " ".join(f"{name}={value}" for name, value in sums.items())
    return (
        f"all  {told} exits={sum(result.crashes for result in results)} "
        f"faults={faults.total()} kinds={len(faults)} in {seconds:.0f} s"
    )


class _Said:
    """What is said goes to standard output, and to a file where there is one."""

    def __init__(self, log: TextIO | None) -> None:
        self._places = [sys.stdout] if log is None else [sys.stdout, log]

    def __call__(self, line: str) -> None:
        for place in self._places:
            place.write(line + "\n")
            place.flush()


if __name__ == "__main__":
    guard()
    raise SystemExit(main())
