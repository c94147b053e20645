"""Celery's own integration tests, with the application that `create_celery_app` makes."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from mainstay.testing import PostgreSQL, RabbitMQ, Redis
from tools.foreign.environments import python_with
from tools.foreign.results import Outcome, Report, Results, run_pytest
from tools.foreign.sources import FOLDER, pinned_version, unpacked

DESCRIPTION = (
    "Celery's own integration tests (t/integration) on private servers; their application is made "
    "by create_celery_app"
)

# Two tests of its worker need Django.
_NEEDS = ("pytest", "pytest-timeout", "django")

_TESTS = "t/integration"
# These construct Celery themselves, so nothing of Mainstay is in them, or need an Azure account.
_LEFT_OUT = (
    "test_backend.py",
    "test_backend_leak_in_fixture_teardown.py",
    "test_events_state_memory_leak.py",
    "test_logfile_format.py",
    "test_mem_leak_in_exception_handling.py",
    "test_upgrade.py",
)
_PLUGINS = ("-p", "celery.contrib.pytest", "-p", "tools.foreign.celery_plugin")
# What follows the last test: the worker is asked to end, and the report is written.
_ENDING_SECONDS = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--broker",
        choices=("redis", "rabbitmq", "both"),
        default="both",
        help="the broker (default: %(default)s, one after the other)",
    )
    parser.add_argument(
        "--results",
        choices=("redis", "postgresql"),
        default="redis",
        help="the result backend (default: %(default)s, as in Celery's own runs)",
    )
    parser.add_argument("-k", dest="expression", metavar="EXPR", help="as pytest's own -k")
    parser.add_argument(
        "--test-seconds",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="a test that takes longer has failed (default: %(default)g)",
    )
    parser.add_argument(
        "--run-seconds",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="after this long a run begins no further test, and each that is left has failed "
        "(default: %(default)g; a broker has two, and two for tests that failed)",
    )


def run(options: argparse.Namespace, only: Sequence[str]) -> dict[str, tuple[Report, Report]]:
    """Run the suite on each broker, bare and with Mainstay.

    A test that fails in either run is run a second time, on new servers, and that it passes there
    counts: Celery marks most of these tests as flaky and runs them up to six times. The reports
    have the failures that do not count.
    """
    python = python_with("celery", _NEEDS)
    version = pinned_version("celery")
    chosen = list(only) or [_TESTS, *(f"--ignore={_TESTS}/{name}" for name in _LEFT_OUT)]
    if options.expression:
        chosen += ["-k", options.expression]
    brokers = ("redis", "rabbitmq") if options.broker == "both" else (options.broker,)
    pairs = {}
    with _tests_of(unpacked("celery", version)) as folder:
        for broker in brokers:
            attempt = partial(_run_both, python, folder, options, broker)
            bare, ours = attempt(chosen, "1")
            if again := to_repeat(bare.results, ours.results):
                bare_again, ours_again = attempt(again, "2")
                bare, ours = _merged(bare, bare_again), _merged(ours, ours_again)
            pairs[_name(broker, options)] = (bare, ours)
    return pairs


def to_repeat(bare: Results, ours: Results) -> list[str]:
    """Return the tests that failed in either run, in the order of the report."""
    return [
        test
        for test in {**bare, **ours}
        if any(test in one and one[test].outcome is Outcome.FAILED for one in (bare, ours))
    ]


def best_of(first: Results, second: Results) -> Results:
    """Return what two attempts give: a test that failed once and passed once has passed."""
    return {
        test: second.get(test, result) if result.outcome is Outcome.FAILED else result
        for test, result in first.items()
    }


def failed_once(first: Results, second: Results) -> Results:
    """Return the failures of tests that failed in one of two attempts and not in the other."""
    failed = {}
    for test in second:
        attempts = [one[test] for one in (first, second) if test in one]
        failures = [one for one in attempts if one.outcome is Outcome.FAILED]
        if len(attempts) == 2 and len(failures) == 1:
            failed[test] = failures[0]
    return failed


@contextmanager
def servers(broker: str, results: str) -> Iterator[dict[str, str]]:
    """Start the servers of a run; give the variables by which Celery's tests find them.

    Redis is always there: the tests count in it what their tasks do.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(Redis())
        # The tests' own client sends no password.
        redis.command("ACL SETUSER default nopass")
        url = f"redis://127.0.0.1:{redis.port}/0"
        environment = {
            "TEST_BROKER": url,
            "TEST_BACKEND": url,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(redis.port),
        }
        if broker == "rabbitmq":
            environment["TEST_BROKER"] = stack.enter_context(RabbitMQ()).url
        if results == "postgresql":
            database = stack.enter_context(PostgreSQL()).create_database("results")
            environment["TEST_BACKEND"] = database.replace("postgresql:", "db+postgresql+psycopg:")
        yield environment


@contextmanager
def _tests_of(source: Path) -> Iterator[Path]:
    """Give a copy of the tests alone, so that they import the Celery that is installed."""
    with tempfile.TemporaryDirectory(prefix="mainstay-foreign-") as name:
        folder = Path(name)
        shutil.copytree(source / "t", folder / "t")
        shutil.copy(source / "pyproject.toml", folder)
        yield folder


def _run_both(
    python: Path,
    folder: Path,
    options: argparse.Namespace,
    broker: str,
    arguments: Sequence[str],
    attempt: str,
) -> tuple[Report, Report]:
    """Run bare and with Mainstay at once: most of the time the tests wait."""
    name = f"{_name(broker, options)}-{attempt}"
    stop = threading.Event()
    one = partial(_run, python, folder, options, broker, arguments, name, stop)
    kinds = ("bare", "mainstay")
    with ThreadPoolExecutor(len(kinds)) as threads:
        try:
            runs = [threads.submit(one, kind) for kind in kinds]
            ended, _ = wait(runs, return_when=FIRST_EXCEPTION)
            for each in ended:
                each.result()
        except BaseException:  # interrupted, or one of the two failed
            stop.set()
            raise
    bare, ours = (each.result() for each in runs)
    return bare, ours


def _run(
    python: Path,
    folder: Path,
    options: argparse.Namespace,
    broker: str,
    arguments: Sequence[str],
    name: str,
    stop: threading.Event,
    kind: str,
) -> Report:
    name = f"{name}-{kind}"
    log = FOLDER / f"{name}.log"
    print(f"{name}: see {log}", file=sys.stderr, flush=True)
    with servers(broker, options.results) as environment:
        environment |= {
            "FOREIGN_CELERY": kind,
            "FOREIGN_TEST_SECONDS": str(options.test_seconds),
            "FOREIGN_ENDS": str(time.time() + options.run_seconds),
            "PYTHONUNBUFFERED": "1",
            # As Celery's own runs have it: some tests look for lines of the level INFO.
            "WORKER_LOGLEVEL": "INFO",
            # Some tests start the command `celery`.
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        }
        report = run_pytest(
            python,
            folder,
            [*_PLUGINS, *arguments, "--show-capture=no", "-W", "ignore::DeprecationWarning", "-vv"],
            report=FOLDER / f"{name}.xml",
            environment=environment,
            limit_seconds=options.run_seconds + options.test_seconds + _ENDING_SECONDS,
            log=log,
            stop=stop,
        )
    if kind == "mainstay" and not int(report.properties.get("applications", 0)):
        raise RuntimeError(f"{name}: create_celery_app made no application")
    if not_run := report.properties.get("not_run"):
        print(f"{name}: the time is over, {not_run} tests were not run", file=sys.stderr)
    return report


def _name(broker: str, options: argparse.Namespace) -> str:
    return f"celery-{broker}-{options.results}"


def _merged(first: Report, second: Report) -> Report:
    unstable = failed_once(first.results, second.results)
    return Report(best_of(first.results, second.results), first.properties, unstable)
