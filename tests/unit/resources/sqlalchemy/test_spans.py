from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from mainstay import context as contexts
from mainstay.config import Settings
from mainstay.context import Context
from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.spans import summary
from mainstay.service import Service
from mainstay.traces import Traces

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    return InMemorySpanExporter()


@pytest.fixture
def service(tmp_path: Path, exporter: InMemorySpanExporter) -> Iterator[Service]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    made = Service(Settings(env="test", database_url=url), Database())
    made.__dict__["traces"] = Traces(made.settings, exporter=exporter)
    yield made
    made.stop()


def spans(service: Service, exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    service.traces.close()
    return [each for each in exporter.get_finished_spans() if "orders" in each.name]


def test_each_statement_of_a_unit_of_work_is_a_span_without_its_values(
    service: Service, exporter: InMemorySpanExporter
) -> None:
    database = service.resource(Database)
    with contexts.use(Context.new()) as context, database.session() as session:
        session.execute(text("create table orders (title varchar)"))
        session.execute(text("insert into orders values (:title)"), {"title": "secret"})
    found = spans(service, exporter)
    assert [each.name for each in found] == ["CREATE orders", "INSERT orders"]
    for each in found:
        assert each.attributes is not None
        assert each.attributes["db.system.name"] == "sqlite"
        assert "secret" not in each.to_json()
        identity = each.get_span_context()
        assert identity is not None
        assert f"{identity.trace_id:032x}" == context.trace_id


async def test_asyncio_is_traced_too_and_leaves_the_context_as_it_was(
    service: Service, exporter: InMemorySpanExporter
) -> None:
    database = service.resource(Database)
    with contexts.use(Context.new()) as context:
        async with database.asession() as session:
            await session.execute(text("create table orders (title varchar)"))
            assert contexts.current() is context
    await database.aclose()
    assert [each.name for each in spans(service, exporter)] == ["CREATE orders"]


def test_a_statement_that_fails_ends_its_span(
    service: Service, exporter: InMemorySpanExporter
) -> None:
    database = service.resource(Database)
    with contexts.use(Context.new()) as context:
        with pytest.raises(OperationalError), database.session() as session:
            session.execute(text("select * from orders"))
        assert contexts.current() is context
    (span,) = spans(service, exporter)
    assert not span.status.is_ok


def test_what_belongs_to_no_unit_of_work_is_not_traced(
    service: Service, exporter: InMemorySpanExporter
) -> None:
    with service.resource(Database).session() as session:
        session.execute(text("create table orders (title varchar)"))
    assert spans(service, exporter) == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("select a.b from orders a join lines l on true", "SELECT orders"),
        ("\n  INSERT INTO mainstay.inbox (id) values (1)", "INSERT mainstay.inbox"),
        ('update "order" set a = 1', "UPDATE order"),
        ("create table if not exists x (a int)", "CREATE x"),
        ("commit", "COMMIT"),
        ("(", "SQL"),
    ],
)
def test_a_statement_is_called_after_what_it_does(statement: str, said: str) -> None:
    assert summary(statement) == said
