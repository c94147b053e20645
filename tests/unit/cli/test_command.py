"""The command itself: its exit codes, and what it says when it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from importlib.metadata import version

import pytest

from mainstay import cli
from mainstay.cli.signals import Interrupted, Signals, when_the_terminal_closes
from mainstay.errors import MainstayError, Misconfigured, Unavailable
from mainstay.testing.wait import eventually


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Misconfigured("APP_PORT is 'x'"), 78),
        (Unavailable("the server is gone"), 1),
        (MainstayError("that is not so"), 1),
    ],
)
def test_what_is_refused_is_one_line_and_an_exit_code(
    error: MainstayError,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", f"mainstay: {error}\n")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mainstay", *arguments], capture_output=True, text=True, check=False
    )


def test_help_names_the_commands_and_is_good() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "dev" in done.stdout
    assert "run" in done.stdout


def test_the_version_is_told() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"mainstay {version('mainstay')}\n")


def test_an_unknown_command_is_usage() -> None:
    done = command("no-such-command")
    assert done.returncode == 2
    assert "No such command" in done.stderr


def test_only_the_first_signal_interrupts() -> None:
    seen: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signals.hand_to(lambda: seen.append("handed over"))
        signal.raise_signal(signal.SIGINT)
    assert seen == ["handed over"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_terminal_that_is_closed_is_noticed() -> None:
    seen: list[str] = []
    window, terminal = os.openpty()
    when_the_terminal_closes(lambda: seen.append("closed"), terminal=terminal)
    assert seen == []
    os.close(window)
    eventually(lambda: seen == ["closed"])
    os.close(terminal)


def test_what_is_no_terminal_is_not_watched() -> None:
    before = threading.active_count()
    reader, writer = os.pipe()
    when_the_terminal_closes(lambda: None, terminal=writer)
    assert threading.active_count() == before
    os.close(reader)
    os.close(writer)
