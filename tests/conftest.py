"""What every test may ask for, and which tests share a worker when several run them."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import hypothesis
import pytest

from mainstay.config import Settings
from mainstay.config.fields import groups
from tests.signals import heed_signals

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler.loadscope import LoadScopeScheduling

pytest_plugins = ["mainstay.testing.plugin", "tests.watchdog"]

# Every run tries the same examples, and none is judged by how long it took.
hypothesis.settings.register_profile(
    "same",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("same")

# Settings read the environment: what this machine says there is no test's concern.
for _name, _field in Settings.model_fields.items():
    _variables = [
        *Settings.variables(_name),
        *(v for each in groups(_field) for v in each.variables),
    ]
    for _variable in _variables:
        os.environ.pop(_variable, None)
        os.environ.pop(f"{_variable}_FILE", None)

PLATFORMS = "tests/services/"
SCENARIOS = "tests/chaos/test_scenarios.py"
ON_REAL_SERVERS = ("test_outages.py", "test_tokens.py")
WITHOUT_A_PLATFORM = ("test_configuration.py", "test_development.py", "test_plain_commands.py")
SHARED_WORKERS = {
    f"tests/contract/tasks/{file}": group
    for group, files in {
        "tasks": ("test_any_room.py", "test_malformed.py", "test_workers.py"),
        "tasks with results": ("test_canvas.py", "test_exits.py"),
        "tasks in a database": ("test_outbox.py", "test_workflows.py"),
    }.items()
    for file in files
}
"""Files whose tests share running workers."""

SLOWEST = (
    "tasks in a database",
    "tasks with results",
    "data on embedded servers",
    "tasks",
    "tests/integration/database/test_migrations.py",
    "tests/contract/tasks/test_processes.py",
    "tests/contract/tasks/test_lost.py",
    "books on embedded servers",
    "tests/contract/http/test_work.py",
    "contracts on real servers",
    "tests/integration/processes/test_dev.py",
    "tests/services/books/test_plain_commands.py",
    "tests/services/contracts/test_plain_commands.py",
    "tests/integration/outbox/test_outbox.py",
    "tests/integration/testing/test_interrupts.py",
    "tests/contract/http/test_answers.py",
    "tests/integration/tasks/test_outages.py",
    "tests/contract/tasks/test_beat.py",
    "data on real servers",
    "tests/integration/http/test_connections.py",
    "tests/contract/rpc/test_faults.py",
    "tests/contract/rpc/test_calls.py",
    "scenarios on Redis",
    "tests/integration/testing/test_servers.py",
    "tests/integration/test_make_run.py",
    "tests/integration/http/test_flask_servers.py",
    "contracts on embedded servers",
    "tests/services/data/test_configuration.py",
    "tests/contract/tasks/test_results.py",
    "tests/contract/tasks/test_fencing.py",
    "books on real servers",
    "tests/integration/tasks/test_lost.py",
    "tests/docs/test_readme.py",
    "tests/contract/tasks/test_outages.py",
    "tests/unit/test_logs.py",
    "tests/integration/database/test_status.py",
    "tests/contract/tasks/test_queues.py",
)
"""The groups that take longest, the first most. `--durations=0` shows how long tests take."""

RECONCILIATION = "reconciliation"
"""The property under which a scenario records what it has counted."""


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    # Garbage is looked for again when all is imported.
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage from now on, and never look through what was imported: that stays."""
    gc.freeze()
    gc.enable()


def pytest_configure() -> None:
    heed_signals()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell of a failure when it happens: a run that is cut short never comes to its summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        sys.stdout.write(f"\n{report.nodeid} ({report.when}): {_in_a_line(report)}\n")
        sys.stdout.flush()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the reconciliation of each scenario, with its seed."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [
        line for one in reports for name, line in one.user_properties if name == RECONCILIATION
    ]
    if lines:
        terminalreporter.section("reconciliation of the scenarios")
        for line in sorted(lines):
            terminalreporter.line(str(line))


def _in_a_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash is not None else report.longrepr).splitlines()
    return lines[0][:300] if lines else "no word"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep together what shares what is slow to start: a file, or a whole platform."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc] # xdist is not typed
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    # Or they come in the order of their number of tests, which says little of their time.
    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest groups: one that began last would keep a single worker busy."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        ranks = {group: rank for rank, group in enumerate(SLOWEST)}
        items.sort(key=lambda item: ranks.get(group_of(item.nodeid), len(ranks)))


def group_of(nodeid: str) -> str:
    """Return the name of what a test shares with others."""
    file = nodeid.partition("::")[0]
    if file == SCENARIOS:
        return f"scenarios on {'RabbitMQ' if '-rabbitmq-' in nodeid else 'Redis'}"
    if not file.startswith(PLATFORMS) or file.endswith(WITHOUT_A_PLATFORM):
        return SHARED_WORKERS.get(file, file)
    service = file.removeprefix(PLATFORMS).partition("/")[0]
    is_real = "[real" in nodeid or file.endswith(ON_REAL_SERVERS)
    return f"{service} on {'real' if is_real else 'embedded'} servers"
