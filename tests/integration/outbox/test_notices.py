"""A relay hears of a commit by itself, and goes on when the database was away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mainstay.errors import Unavailable
from mainstay.resources.sqlalchemy import migrate, relay
from mainstay.resources.sqlalchemy.notices import Announcer
from mainstay.testing.servers import PostgreSQL
from mainstay.testing.wait import eventually
from tests.integration.outbox.scene import Scene, message


@pytest.fixture
def scenes(address: str) -> Iterator[tuple[Scene, Scene]]:
    """Two processes of one service, as far as they can tell."""
    migrate.upgrade(address, say=lambda _line: None)
    relaying = Scene(address)
    sending = Scene(address, broker=relaying.broker)
    yield relaying, sending
    sending.close()
    relaying.close()


@pytest.mark.parametrize("address", ["embedded", "postgresql"], indirect=True)
def test_another_process_is_heard_at_once(
    scenes: tuple[Scene, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_LOOK_SECONDS", 3600.0)  # it would never look by itself
    relaying, sending = scenes
    with relaying.relaying():
        for count in range(1, 4):
            sending.send(message())
            eventually(lambda count=count: len(relaying.broker.published) == count)  # type: ignore[misc] # bound now


def test_this_process_is_heard_at_once(
    scenes: tuple[Scene, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LOOK_SECONDS", "_LOOK_SECONDS_OF_SQLITE"):
        monkeypatch.setattr(relay, name, 3600.0)
    relaying, _ = scenes
    with relaying.relaying():
        for count in range(1, 4):
            relaying.send(message())
            eventually(lambda count=count: len(relaying.broker.published) == count)  # type: ignore[misc] # bound now


def test_a_notice_that_is_lost_is_made_good_by_looking(
    scenes: tuple[Scene, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    relaying, sending = scenes
    with relaying.relaying():
        (first,) = sending.send(message())
        eventually(lambda: first in relaying.broker.ids)
        monkeypatch.setattr(Announcer, "announce", lambda _self: None)
        (second,) = sending.send(message())
        eventually(lambda: second in relaying.broker.ids)


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
@pytest.mark.parametrize("fault", ["stop", "kill"])
def test_a_relay_outlives_its_database(
    postgres: PostgreSQL, scenes: tuple[Scene, Scene], fault: str
) -> None:
    relaying, sending = scenes
    with relaying.relaying():
        (before,) = sending.send(message())
        eventually(lambda: before in relaying.broker.ids)
        {"stop": postgres.stop, "kill": postgres.kill}[fault]()
        try:
            with pytest.raises(Unavailable):
                sending.send(message())
        finally:
            postgres.start()
        (after,) = eventually(lambda: sending.send(message()))
        eventually(lambda: after in relaying.broker.ids)
        assert relaying.service.lifecycle.is_progressing
    assert set(relaying.broker.ids) == {before, after}
