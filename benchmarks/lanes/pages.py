"""Pages of the records of `services/data`, read with its own query and its own cursors.

``fill ROWS`` makes that many records; ``first`` and ``deep`` read pages, the newest one or those
from the middle of the table on.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from benchmarks.lanes.asked import answer_rounds
from data import queries
from data.models import DataProcessingRecord, metadata
from data.schemas import Record
from mainstay.http.pages import DEFAULT_LIMIT, encode_cursor
from mainstay.http.rows import Page, Rows
from mainstay.resources.sqlalchemy import Database

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_RECORDS = text(
    """
    insert into data_processing_records
        (id, payload, description, task_type, task_status, outcome, created_at, updated_at)
    select cast(lpad(to_hex(number), 32, '0') as uuid),
           '{"text": "what was to be processed", "count": 3}', 'uppercase', 'sync', 'Success',
           '{"status": "success", "input": {}, "output": {"text": "WHAT WAS TO BE PROCESSED"}}',
           cast(:began as timestamptz) + number * interval '1 second',
           cast(:began as timestamptz) + number * interval '1 second'
    from generate_series(1, :rows) as number
    """
)


def fill(rows: int) -> None:
    """Make *rows* records, one a second, and tell the planner of them."""
    database = Database(url=os.environ["BENCH_DATABASE"], statement_timeout_seconds=3_600.0)
    metadata.create_all(database.engine)
    with database.session() as session:
        session.execute(_RECORDS, {"began": _BEGAN, "rows": rows})
    with database.autocommit() as connection:
        connection.execute(text("vacuum analyze data_processing_records"))
    database.close()


def pages(where: str, rows: int) -> Callable[[int], None]:
    """Return what reads pages; each is the one after the page before, and looked at."""
    database = Database(url=os.environ["BENCH_DATABASE"])
    runner = asyncio.Runner()

    async def read(units: int) -> None:
        last = rows if where == "first" else rows // 2
        for _ in range(units):
            page = Page() if where == "first" else Page(cursor=_cursor(last))
            found = await _page(database, page)
            newest = last if where == "first" else last - 1
            ids = [record.id.int for record in found.items]
            if ids != list(range(newest, newest - DEFAULT_LIMIT, -1)):
                raise ValueError(f"not the page before {last}: {ids}")
            if found.next_cursor != _cursor(ids[-1]):
                raise ValueError(f"not the cursor of {ids[-1]}: {found.next_cursor}")
            if where == "deep":
                last = ids[-1] if ids[-1] > 2 * DEFAULT_LIMIT else rows // 2

    return lambda units: runner.run(read(units))


async def _page(database: Database, page: Page) -> Rows[Record]:
    wanted = queries.newest(
        queries.records(),
        DataProcessingRecord,
        limit=page.limit,
        offset=page.offset,
        position=page.position,
    )
    async with database.asession(read_only=True) as session:
        found = (await session.scalars(wanted)).all()
        return page.rows(found, lambda row: (row.created_at, row.id), show=Record.model_validate)


def _cursor(number: int) -> str:
    return encode_cursor((_BEGAN + timedelta(seconds=number), UUID(int=number)))


if __name__ == "__main__":
    do, size = sys.argv[1], int(sys.argv[2])
    if do == "fill":
        fill(size)
    else:
        answer_rounds(pages(do, size))
