"""A service: what it holds open, what it says of itself, and how it lets go."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from mainstay.config import Settings
from mainstay.errors import Misconfigured
from mainstay.health import Check
from mainstay.lifecycle import Phase
from mainstay.service import Resource, Service


class Shelf(Resource):
    """A resource that notes what happens to it."""

    name = "shelf"

    def __init__(self, closed: list[str], error: Exception | None = None) -> None:
        self._closed = closed
        self._error = error

    def ping(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._closed.append(self.name)
        if self._error is not None:
            raise self._error


class Cellar(Shelf):
    name = "cellar"
    optional = True


class Unnamed(Shelf):
    name = "unnamed"

    @property
    def is_named(self) -> bool:
        return False


@pytest.fixture
def settings() -> Settings:
    return Settings(env="test", service_name="orders", version="1.2")


def test_making_one_reads_no_setting() -> None:
    class Broken(Settings):
        @classmethod
        def load(cls, **overrides: object) -> Broken:
            raise Misconfigured("read")

    service = Service(Broken, Shelf([]))

    with pytest.raises(Misconfigured, match="read"):
        _ = service.settings


def test_bare_settings_become_a_service(settings: Settings) -> None:
    service = Service.of(settings)

    assert service.settings is settings
    assert service.name == "orders"
    assert Service.of(service) is service


def test_what_is_held_is_found_by_its_class(settings: Settings) -> None:
    shelf = Shelf([])
    service = Service(settings, shelf)

    assert service.resource(Shelf) is shelf
    assert shelf.service is service
    assert service.find(Cellar) is None
    with pytest.raises(Misconfigured, match=r"needs a Cellar.*Service\(settings, Cellar"):
        service.resource(Cellar)


def test_two_of_one_name_are_refused(settings: Settings) -> None:
    with pytest.raises(Misconfigured, match="two resources called 'shelf'"):
        Service(settings, Shelf([]), Shelf([]))


def test_a_resource_of_no_service_says_so() -> None:
    with pytest.raises(Misconfigured, match="pass it to Service"):
        _ = Shelf([]).service


def test_health_asks_what_the_settings_name(settings: Settings) -> None:
    service = Service(settings, Shelf([]), Cellar([], OSError()), Unnamed([]))

    report = service.health.health()
    service.health.close()

    assert report.status == "degraded"
    assert set(report.checks) == {"shelf", "cellar"}


def test_what_is_held_later_is_asked_too(settings: Settings) -> None:
    class Fresh(Shelf):
        def readiness(self) -> Sequence[Check]:
            return [Check("schema", self.ping)]

    service = Service(settings)
    service.health.health()

    service.hold(Fresh([]))

    assert set(service.health.health().checks) == {"shelf"}
    assert set(service.health.ready().checks) == {"process", "shelf", "schema"}
    service.stop()


def test_a_process_says_when_it_is_up_and_when_it_goes(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(settings)
    monkeypatch.setattr(service.logs, "install", lambda: None)

    service.start("api")
    assert service.lifecycle.is_ready
    service.stop()
    service.stop()

    up, going = map(json.loads, capsys.readouterr().out.splitlines())
    assert (up["event"], up["process"]) == ("startup_success", "api")
    assert going["event"] == "shutting_down"
    assert b"app_up 1.0" in service.metrics.exposition()[0]


def test_everything_is_closed_from_the_last_to_the_first_also_when_one_fails(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[str] = []
    service = Service(settings, Shelf(closed), Cellar(closed, OSError("stuck")))
    service.health.health()
    _ = service.traces, service.metrics

    with pytest.raises(ExceptionGroup, match="not everything could be closed"):
        service.stop()

    assert closed == ["cellar", "shelf"]
    assert service.lifecycle.phase is Phase.STOPPED


def test_a_child_that_was_forked_keeps_its_checks(settings: Settings) -> None:
    service = Service(settings, Shelf([]))
    service.health.health()

    service.forked()

    assert set(service.health.health().checks) == {"shelf"}
    service.stop()
