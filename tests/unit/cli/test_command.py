"""The command itself: its exit codes, and what it says when it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.metadata import version

import pytest

from mainstay import cli
from mainstay.cli.signals import Interrupted, Signals
from mainstay.errors import MainstayError, Misconfigured, Unavailable


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
