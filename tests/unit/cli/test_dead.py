"""`mainstay dead` over more letters than can be gone through at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from mainstay.cli import dead, services
from mainstay.deadletters import DeadLetter

BODIES = (b'[["blue"], {"password": "hunter2", "size": 3}, null]', b"token=abc-123, not JSON")


class Store:
    """Twelve letters."""

    def queues(self) -> list[str]:
        return ["work"]

    def letters(self, queue: str) -> Iterator[DeadLetter]:
        for number in range(12):
            yield DeadLetter(
                id=f"{number}",
                kind="task",
                queue=queue,
                reason="expired",
                position=f"{number}",
                body=BODIES[number % 2],
            )

    def discard(self, queue: str, matching: Callable[[DeadLetter], bool]) -> int:
        return sum(map(matching, self.letters(queue)))


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = SimpleNamespace(settings=None)
    monkeypatch.setattr(services, "selected", lambda _service: [handle])
    monkeypatch.setattr(dead, "stores", lambda _settings: [Store()])
    monkeypatch.setattr(dead, "_PROGRESS_EVERY", 5)


def test_progress_is_told_beside_what_is_printed() -> None:
    ended = CliRunner().invoke(dead.app, ["ls", "--json"])
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["causes"][0]["count"] == 12
    assert ended.stderr.splitlines() == [
        "5 dead letters looked at so far",
        "10 dead letters looked at so far",
    ]


@pytest.mark.parametrize(
    ("id", "body"),
    [
        ("0", '[["blue"], {"password": "***", "size": 3}, null]'),
        ("1", "token=***, not JSON"),
    ],
)
def test_a_letter_is_shown_without_the_secrets_in_it(id: str, body: str) -> None:
    ended = CliRunner().invoke(dead.app, ["show", id, "--json"])
    assert json.loads(ended.stdout)["body"] == body


def test_what_acts_on_many_letters_tells_its_progress_too() -> None:
    ended = CliRunner().invoke(dead.app, ["discard", "--all-like", "0"])
    assert ended.stdout == "12 thrown away: work  (expired)\n"
    assert ended.stderr.splitlines() == [
        "5 dead letters gone through so far",
        "10 dead letters gone through so far",
    ]
