"""Does a page of records cost the same however many there are, and however deep it lies?"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.environments import OURS, ROOT
from benchmarks.programs import LaneFailed, Other, worker
from benchmarks.row import Lane, Row, at_most
from mainstay.testing.servers import PostgreSQL

_FEW, _MANY, _MANY_TO_TRY = 10_000, 10_000_000, 1_000_000
_PACKAGES = ("sqlalchemy", "asyncpg")
# Nothing but the pages is to be worked on while they are read.
_CONFIG = {
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
}


@contextmanager
def _lanes(many: int) -> Iterator[Sequence[Lane]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mainstay-bench-")))
        postgres = stack.enter_context(PostgreSQL(config=_CONFIG))
        lanes = []
        for size, rows in (("few", _FEW), ("many", many)):
            variables = {
                "BENCH_DATABASE": postgres.create_database(size),
                "PYTHONPATH": str(ROOT / "services" / "data"),
            }
            _fill(rows, variables)
            for where in ("first", "deep"):
                name = f"{where} of {size}"
                reader = stack.enter_context(
                    worker(
                        "benchmarks.lanes.pages",
                        where,
                        str(rows),
                        output=folder / f"{where}-{size}.log",
                        variables=variables,
                        servers=[Other(postgres.pid)],
                    )
                )
                lanes.append(Lane(name, reader.round, _PACKAGES))
        yield lanes


def _fill(rows: int, variables: Mapping[str, str]) -> None:
    words = [str(OURS.python), "-m", "benchmarks.lanes.pages", "fill", str(rows)]
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, check=False)
    if done.returncode:
        raise LaneFailed(f"there are no records:\n{done.stderr.decode()}")


ROW = Row(
    "pages",
    f"a page of {_FEW:,} (few) and of {_MANY:,} (many) records in PostgreSQL, the first and a deep",
    unit="page",
    units=600,
    goals=(
        at_most(1.2, times="first of few", lane="first of many"),
        at_most(1.2, times="deep of few", lane="deep of many"),
        at_most(1.2, times="first of many", lane="deep of many"),
    ),
    lanes=partial(_lanes, _MANY),
    lanes_to_try=partial(_lanes, _MANY_TO_TRY),
    warm_up=100,
    environments=(OURS,),
)
