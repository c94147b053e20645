"""The schema is brought to head once, by any number of replicas: on every kind of database."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Executable, column, create_engine, inspect, table, text

from mainstay.config import Settings, urls
from mainstay.errors import Misconfigured
from mainstay.resources.sqlalchemy import Database, initial, migrate
from mainstay.resources.sqlalchemy import tables as tables_of_ours
from mainstay.resources.sqlalchemy.database import SchemaBehind
from tests.waiting import PATIENCE_SECONDS

REVISION = '''
"""{doc}."""

import sqlalchemy as sa
from alembic import op

revision = "{id}"
down_revision = {down!r}


def upgrade() -> None:
    {up}


def downgrade() -> None:
    {back}
'''


class Folder:
    """A service's folder with migrations, made by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.package = f"shop_{path.name.replace('-', '_')}"
        versions = path / "migrations" / "versions"
        versions.mkdir(parents=True)
        (path / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n")
        mako = Path(migrate.__file__).parent / "migrations" / "script.py.mako"
        (path / "migrations" / "script.py.mako").write_text(mako.read_text())
        (path / "migrations" / "env.py").write_text(
            f"from {self.package}.models import metadata\n"
            "from mainstay.config import Settings\n"
            "from mainstay.resources.sqlalchemy.alembic import run\n\n"
            "run(Settings, metadata)\n"
        )
        (path / self.package).mkdir()
        (path / self.package / "__init__.py").touch()
        self.models("sa.Table('orders', metadata, sa.Column('id', sa.Integer, primary_key=True))")
        self.revision(
            "one",
            None,
            "op.create_table('orders', sa.Column('id', sa.Integer, primary_key=True))",
            "op.drop_table('orders')",
        )

    def models(self, *lines: str) -> None:
        head = ("import sqlalchemy as sa", "metadata = sa.MetaData()")
        (self.path / self.package / "models.py").write_text("\n".join([*head, *lines, ""]))

    def revision(
        self, id: str, down: str | tuple[str, ...] | None, up: str, back: str = "pass"
    ) -> None:
        text = REVISION.format(id=id, doc=id.capitalize(), down=down, up=up, back=back)
        (self.path / "migrations" / "versions" / f"{id}.py").write_text(text.lstrip())

    def without(self, id: str) -> None:
        (self.path / "migrations" / "versions" / f"{id}.py").unlink()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    made = Folder(tmp_path_factory.mktemp("shop"))
    yield made
    sys.path[:] = [each for each in sys.path if each != str(made.path)]


other_folder = folder


def change(address: str, statement: Callable[[str], Executable]) -> None:
    """Do what *statement* says of a kind of database."""
    engine = create_engine(urls.sync_url(address))
    with engine.begin() as connection:
        connection.execute(statement(engine.name))
    engine.dispose()


def without_record(dialect: str) -> Executable:
    return tables_of_ours.table("revisions", dialect).delete()


def without_last_record(dialect: str) -> Executable:
    ours = tables_of_ours.table("revisions", dialect)
    return ours.delete().where(ours.c.revision == "0007")


def as_newer_code_leaves_it(dialect: str) -> Executable:
    name = tables_of_ours.name_of("alembic_version", dialect)
    version = table(name, column("version_num"), schema=tables_of_ours.schema_of(dialect))
    return version.update().values(version_num="9999")


def tables(address: str) -> set[str]:
    engine = create_engine(urls.sync_url(address))
    with engine.connect() as connection:
        found = inspect(connection)
        names = {
            f"{schema}.{name}" if schema == "mainstay" else name
            for schema in found.get_schema_names()
            if schema in ("mainstay", "public", "main")
            for name in found.get_table_names(schema)
        }
    engine.dispose()
    return names


def test_mainstays_tables_come_first_and_then_the_services(address: str, folder: Folder) -> None:
    said: list[str] = []
    migrate.upgrade(address, folder.path, say=said.append)
    assert said == [
        "mainstay: applied 0001 (Inbox, idempotency keys, dead letters and task status)",
        "mainstay: applied 0002 (Outbox)",
        "mainstay: applied 0003 (Workflows and schedule)",
        "mainstay: applied 0004 (Outbox: what no queue takes is counted by itself)",
        "mainstay: applied 0005 (Task status: how tasks are found that are lost, and sent again)",
        "mainstay: applied 0006 (Workflows: which dead letters a retry has made stale)",
        "mainstay: applied 0007 (Revisions: which migrations a database has, for older code)",
        f"{folder.path.name}: applied one (One)",
    ]
    dot = "." if address.startswith("postgresql") else "_"
    own = (
        *("alembic_version", "inbox", "outbox", "idempotency_keys", "dead_letters", "task_status"),
        *("workflows", "workflow_steps", "schedule", "task_markers", "revisions"),
    )
    assert tables(address) == {f"mainstay{dot}{name}" for name in own} | {
        "orders",
        "alembic_version",
    }
    assert migrate.check(address, folder.path) == []
    said.clear()
    migrate.upgrade(address, folder.path, say=said.append)
    assert said == ["the schema is up to date"]


def test_what_is_not_applied_is_named(address: str, folder: Folder) -> None:
    migrate.upgrade(address, say=lambda line: None)
    assert migrate.check(address, folder.path) == [
        f"{folder.path.name}: revision one is not applied: run `mainstay db upgrade`"
    ]
    ours, theirs = migrate.current(address, folder.path)
    assert (ours.is_at_head, theirs.is_at_head) == (True, False)
    assert (theirs.current, theirs.heads, theirs.pending) == ((), ("one",), ("one",))


def test_a_model_without_its_migration_is_found_and_a_migration_written(
    address: str, folder: Folder
) -> None:
    migrate.upgrade(address, folder.path, say=lambda line: None)
    folder.models(
        "sa.Table('orders', metadata, sa.Column('id', sa.Integer, primary_key=True),",
        "         sa.Column('title', sa.String(20)))",
        "sa.Table('lines', metadata, sa.Column('id', sa.Integer, primary_key=True))",
    )
    sys.modules.pop(f"{folder.package}.models", None)
    assert set(migrate.check(address, folder.path)) == {
        f"{folder.path.name}: add table lines",
        f"{folder.path.name}: add column orders title",
    }
    written = migrate.revision(address, folder.path, "lines", say=lambda line: None)
    source = written.read_text()
    assert "mainstay" not in source
    assert "drop_table('orders')" not in source
    migrate.upgrade(address, folder.path, say=lambda line: None)
    assert migrate.check(address, folder.path) == []
    assert "lines" in tables(address)


EMPTY = "sa.Table('orders', metadata, sa.Column('id', sa.Integer, primary_key=True))"
COLOURS = "class Colour(enum.Enum):\n    RED = 'red'\n    BLUE = 'blue'\n"
POSTGRESQL_ONLY = (
    *("arrays", "arrays of decorated enums", "SQLModel with PostgreSQL's own types"),
)
ROUND_TRIPS: dict[str, list[str]] = {
    "SQLModel": [
        """
class Base(SQLModel, registry=registry(metadata=metadata)):
    pass

class Line(Base, table=True):
    id: uuid.UUID = Field(primary_key=True)
    name: str
    code: str | None = Field(default=None, max_length=20, index=True)
    created_at: datetime.datetime
    day: datetime.date
    lasts: datetime.timedelta
    price: decimal.Decimal = Field(max_digits=10, decimal_places=2)
    colour: Colour
    data: dict[str, object] = Field(sa_type=sa.JSON)
    is_open: bool
"""
    ],
    "SQLModel, with what its users add": [
        """
class Base(SQLModel, registry=registry(metadata=metadata)):
    pass

class Level(str, enum.Enum):
    LOW = "low"
    HIGH = "high"

class Owner(Base, table=True):
    id: int | None = Field(default=None, primary_key=True)
    email: str = Field(unique=True, index=True, max_length=254)

class Thing(Base, table=True):
    __table_args__ = (sa.UniqueConstraint("owner_id", "slug"), sa.CheckConstraint("amount >= 0"))

    id: int | None = Field(default=None, primary_key=True, sa_type=sa.BigInteger)
    owner_id: int = Field(foreign_key="owner.id", ondelete="CASCADE")
    slug: str = Field(sa_type=sa.Text)
    level: Level = Field(default=Level.LOW, index=True)
    colour: Colour | None = None
    at: datetime.datetime = Field(
        sa_type=sa.DateTime(timezone=True), sa_column_kwargs={"server_default": sa.func.now()}
    )
    time: datetime.time
    amount: float
    raw: bytes
    link: ipaddress.IPv4Address | None = None
    path: pathlib.Path
    notes: list[str] = Field(sa_type=sa.JSON().with_variant(postgresql.JSONB(), "postgresql"))
"""
    ],
    "defaults, identities, computed columns and comments": [
        """
sa.Table("a", metadata, sa.Column("id", sa.Uuid, primary_key=True),
         sa.Column("n", sa.Integer, server_default="7", nullable=False),
         sa.Column("flag", sa.Boolean, server_default=sa.false()),
         sa.Column("word", sa.String(9), server_default="it's 50%", comment="with 'quotes'"),
         sa.Column("twice", sa.Integer, sa.Computed("n * 2", persisted=True)),
         sa.Column("small", sa.SmallInteger), sa.Column("big", sa.Numeric(38, 10)),
         sa.Column("blob", sa.LargeBinary), sa.Column("at", sa.TIMESTAMP(timezone=True)),
         sa.Index("ix_a_word", "word", "n"))
"""
    ],
    "types that convert values": [
        """
class Upper(sa.TypeDecorator[str]):
    impl = sa.String

class Guid(sa.TypeDecorator[str]):
    impl = sa.CHAR

    def load_dialect_impl(self, dialect):
        kind = postgresql.UUID() if dialect.name == "postgresql" else sa.CHAR(36)
        return dialect.type_descriptor(kind)

class Tags(sa.TypeDecorator[object]):
    impl = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

class Serial(sa.types.UserDefinedType[str]):
    def get_col_spec(self, **_):
        return "varchar(7)"

sa.Table("lines", metadata, sa.Column("id", Guid, primary_key=True), sa.Column("a", Upper(12)),
         sa.Column("tags", Tags), sa.Column("serial", Serial), sa.Column("lasts", sa.Interval))
"""
    ],
    "decorators of decorators, of enums and of an author's type": [
        """
class AnyColour(sa.TypeDecorator[Colour]):
    impl = sa.Enum(Colour, name="colour")

class Favourite(sa.TypeDecorator[Colour]):
    impl = AnyColour

class Described(sa.TypeDecorator[str]):
    impl = sa.String

    def load_dialect_impl(self, dialect):
        return dialect.type_descriptor(sa.Enum("s", "m", name="size"))

class Shade(sa.Enum):
    pass

class Flag(sa.TypeDecorator[bool]):
    impl = sa.Boolean

class Serial(sa.types.UserDefinedType[str]):
    def get_col_spec(self, **_):
        return "varchar(7)"

class Number(sa.TypeDecorator[str]):
    impl = Serial

sa.Table("a", metadata, sa.Column("id", sa.Integer, primary_key=True),
         sa.Column("a", Favourite), sa.Column("b", Described), sa.Column("c", Number),
         sa.Column("d", Flag), sa.Column("f", Shade("x", name="shade")),
         sa.Column("g", sa.String(9).with_variant(Favourite(), "postgresql")),
         sa.Column("h", AnyColour().with_variant(sa.String(8), "postgresql")))
"""
    ],
    "arrays of decorated enums": [
        """
class AnyColour(sa.TypeDecorator[Colour]):
    impl = sa.Enum(Colour, name="colour")

class Size(sa.TypeDecorator[str]):
    impl = sa.Enum("s", "m", name="size")

class Sizes(sa.TypeDecorator[list[str]]):
    impl = sa.ARRAY(Size())

class Palette(sa.TypeDecorator[object]):
    impl = sa.JSON().with_variant(postgresql.ARRAY(sa.Enum("x", name="paint")), "postgresql")

sa.Table("a", metadata, sa.Column("colours", sa.ARRAY(AnyColour())), sa.Column("sizes", Sizes),
         sa.Column("palette", Palette),
         sa.Column("odd", sa.ARRAY(sa.Enum("a+b (1)", "[c]|d", "it's", name="odd"))))
"""
    ],
    "an enum that several tables have, and that grows": [
        "sa.Table('a', metadata, sa.Column('id', sa.Integer, primary_key=True))",
        """
kind = sa.Enum("50%", "a :b", "it's", name="Kind")
sa.Table("a", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("kind", kind))
sa.Table("b", metadata, sa.Column("kind", kind))
""",
        """
kind = sa.Enum("50%", "a :b", "it's", "a fourth", name="Kind")
sa.Table("a", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("kind", kind))
sa.Table("b", metadata, sa.Column("kind", kind))
sa.Table("c", metadata, sa.Column("kind", kind))
""",
    ],
    "a schema": [
        """
metadata.schema = "shop"
sa.Table("a", metadata, sa.Column("id", sa.Integer, primary_key=True),
         sa.Column("kind", sa.Enum(Colour, name="kind", schema="shop")))
sa.Table("b", metadata, sa.Column("a", sa.ForeignKey("shop.a.id")))
"""
    ],
    "JSON": [
        """
sa.Table("a", metadata, sa.Column("plain", sa.JSON),
         sa.Column("binary", sa.JSON().with_variant(postgresql.JSONB(), "postgresql")))
"""
    ],
    "SQLModel with PostgreSQL's own types": [
        """
class Base(SQLModel, registry=registry(metadata=metadata)):
    pass

class Line(Base, table=True):
    __table_args__ = {"schema": "shop"}

    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    tags: list[str] = Field(sa_column=sa.Column(postgresql.ARRAY(sa.String(20)), nullable=False))
    colours: list[Colour] = Field(sa_type=postgresql.ARRAY(sa.Enum(Colour, name="colour")))
    colour: Colour = Field(sa_type=sa.Enum(Colour, name="colour"))
    size: str = Field(sa_type=sa.Enum("s", "m", name="size", schema="shop"))
    data: dict[str, object] = Field(sa_type=postgresql.JSONB)
    span: object = Field(sa_type=postgresql.TSTZRANGE)
    words: object = Field(sa_type=postgresql.TSVECTOR)
    stamp: datetime.datetime = Field(sa_type=postgresql.TIMESTAMP(timezone=True, precision=3))
    lasts: datetime.timedelta = Field(sa_type=postgresql.INTERVAL)
    kinds: dict[str, str] = Field(sa_type=sa.JSON)
"""
    ],
    "arrays": [
        """
sa.Table("a", metadata, sa.Column("tags", sa.ARRAY(sa.String(10))),
         sa.Column("grid", postgresql.ARRAY(sa.Integer, dimensions=2)),
         sa.Column("kinds", sa.ARRAY(sa.Enum(Colour, name="kind"))),
         sa.Column("ip", postgresql.INET), sa.Column("more", postgresql.JSONB))
"""
    ],
}


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        *(("postgresql", kind) for kind in ROUND_TRIPS),
        *(("sqlite", kind) for kind in ROUND_TRIPS if kind not in POSTGRESQL_ONLY),
    ],
    indirect=["address"],
)
def test_a_generated_migration_makes_what_the_models_say(
    address: str, folder: Folder, kind: str
) -> None:
    migrate.upgrade(address, folder.path, say=lambda line: None)
    for models in ROUND_TRIPS[kind]:
        folder.models(
            "import datetime, decimal, enum, ipaddress, pathlib, uuid",
            "from sqlalchemy.dialects import postgresql",
            "from sqlalchemy.orm import registry",
            "from sqlmodel import Field, SQLModel",
            EMPTY,
            COLOURS,
            models,
        )
        sys.modules.pop(f"{folder.package}.models", None)
        assert migrate.check(address, folder.path) != []
        written = migrate.revision(address, folder.path, "step", say=lambda line: None)
        assert "_create_events" not in written.read_text()
        for to in ("-1", None):  # there, back and there again
            migrate.upgrade(address, folder.path, say=lambda line: None)
            assert migrate.check(address, folder.path) == []
            if to is not None:
                migrate.downgrade(address, folder.path, to, say=lambda line: None)


def test_an_enum_that_is_made_elsewhere_is_left_alone(database_url: str, folder: Folder) -> None:
    migrate.upgrade(database_url, folder.path, say=lambda line: None)
    engine = create_engine(urls.sync_url(database_url))
    with engine.begin() as connection:
        connection.execute(text("create type public.theirs as enum ('a')"))
    folder.models(
        "from sqlalchemy.dialects import postgresql",
        EMPTY,
        "theirs = postgresql.ENUM('a', 'new', name='theirs', create_type=False)",
        "class Theirs(sa.TypeDecorator[str]):",
        "    impl = theirs",
        "sa.Table('a', metadata, sa.Column('plain', theirs), sa.Column('decorated', Theirs),",
        "         sa.Column('array', sa.ARRAY(theirs)),",
        "         sa.Column('variant', sa.String().with_variant(theirs, 'postgresql')))",
    )
    sys.modules.pop(f"{folder.package}.models", None)
    migrate.revision(database_url, folder.path, "theirs", say=lambda line: None)
    migrate.upgrade(database_url, folder.path, say=lambda line: None)
    assert migrate.check(database_url, folder.path) == []
    migrate.downgrade(database_url, folder.path, "-1", say=lambda line: None)
    with engine.connect() as connection:
        labels = connection.scalars(
            text("select unnest(enum_range(null::public.theirs))::text")
        ).all()
    engine.dispose()
    assert labels == ["a"]
    assert "a" not in tables(database_url)


def test_the_tables_of_celerys_results_are_none_of_the_services(
    address: str, folder: Folder
) -> None:
    migrate.upgrade(address, folder.path, say=lambda line: None)
    engine = create_engine(urls.sync_url(address))
    with engine.begin() as connection:
        for name in ("celery_taskmeta", "celery_tasksetmeta"):
            connection.execute(text(f"create table {name} (id integer)"))
    engine.dispose()
    assert migrate.check(address, folder.path) == []


def test_an_older_schema_can_be_gone_back_to(address: str, folder: Folder) -> None:
    migrate.upgrade(address, folder.path, say=lambda line: None)
    said: list[str] = []
    migrate.downgrade(address, folder.path, "-1", say=said.append)
    assert said == [f"{folder.path.name}: took back one (One)"]
    assert "orders" not in tables(address)
    migrate.downgrade(address, None, "base", say=lambda line: None)
    assert migrate.check(address) != []
    with pytest.raises(Misconfigured, match="nowhere"):
        migrate.downgrade(address, folder.path, "nowhere", say=lambda line: None)


def test_a_migration_that_fails_leaves_nothing_behind(address: str, folder: Folder) -> None:
    folder.revision(
        "two",
        "one",
        "op.create_table('half', sa.Column('id', sa.Integer)); raise ZeroDivisionError",
    )
    with pytest.raises(ZeroDivisionError):
        migrate.upgrade(address, folder.path, say=lambda line: None)
    assert "half" not in tables(address)
    assert "orders" not in tables(address)
    folder.revision("two", "one", "op.create_table('half', sa.Column('id', sa.Integer))")
    migrate.upgrade(address, folder.path, say=lambda line: None)
    assert {"half", "orders"} <= tables(address)


def create_table(name: str) -> str:
    return f"op.create_table('{name}', sa.Column('id', sa.Integer))"


def state(address: str, folder: Folder) -> str:
    return migrate.current(address, folder.path)[1].state


def test_older_code_is_content_with_a_newer_schema(address: str, folder: Folder) -> None:
    folder.revision("two", "one", create_table("new"))
    migrate.upgrade(address, folder.path, say=lambda line: None)
    folder.without("two")
    assert migrate.current(address, folder.path)[1].is_at_head
    assert state(address, folder) == "newer than this code"
    migrate.upgrade(address, folder.path, say=lambda line: None)
    assert migrate.check(address, folder.path) == [
        f"{folder.path.name}: the database is at two, which is newer than this code"
    ]
    with pytest.raises(Misconfigured, match="two"):
        migrate.revision(address, folder.path, "more", say=lambda line: None)


def test_every_head_is_applied(address: str, folder: Folder) -> None:
    migrate.upgrade(address, folder.path, say=lambda line: None)
    folder.revision("left", "one", create_table("left_side"))
    migrate.upgrade(address, folder.path, say=lambda line: None)
    folder.revision("right", "one", create_table("right_side"))
    assert state(address, folder) == "lacks right"
    assert migrate.check(address, folder.path) == [
        f"{folder.path.name}: revision right is not applied: run `mainstay db upgrade`"
    ]
    migrate.upgrade(address, folder.path, say=lambda line: None)
    assert {"left_side", "right_side"} <= tables(address)
    assert state(address, folder) == "newest"
    folder.revision("both", ("left", "right"), create_table("united"))
    assert state(address, folder) == "lacks both"
    migrate.upgrade(address, folder.path, say=lambda line: None)
    assert "united" in tables(address)
    assert migrate.current(address, folder.path)[1].current == ("both",)


def test_a_second_beginning_is_applied_too(address: str, folder: Folder) -> None:
    migrate.upgrade(address, folder.path, say=lambda line: None)
    folder.revision("apart", None, create_table("apart"))
    folder.revision("after", "apart", create_table("after"))
    assert state(address, folder) == "lacks apart, after"
    migrate.upgrade(address, folder.path, say=lambda line: None)
    assert {"orders", "apart", "after"} <= tables(address)


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_revision_that_this_code_lacks_is_not_taken_for_newer(
    address: str, folder: Folder, is_recorded: bool
) -> None:
    folder.revision("theirs", "one", create_table("their_table"))
    migrate.upgrade(address, folder.path, say=lambda line: None)
    folder.without("theirs")  # a branch that was deployed before this one, which has another head
    folder.revision("ours", "one", create_table("our_table"))
    if not is_recorded:  # as by an Alembic that told nobody what it applied
        change(address, without_record)
    for _ in range(2):
        with pytest.raises(Misconfigured, match=r"at theirs, .* not known to hold .*ours"):
            migrate.upgrade(address, folder.path, say=lambda line: None)
    assert "our_table" not in tables(address)
    assert state(address, folder).startswith("unknown here, lacks")
    assert "theirs" in migrate.check(address, folder.path)[0]
    database = Database(url=address, models=f"{folder.package}.models")
    with pytest.raises(SchemaBehind, match="at theirs"):
        next(iter(database.readiness())).ping()
    database.close()


def test_mainstays_own_tables_may_be_newer_too(address: str, folder: Folder) -> None:
    migrate.upgrade(address, folder.path, say=lambda line: None)
    change(address, as_newer_code_leaves_it)
    assert [each.state for each in migrate.current(address, folder.path)] == [
        "newer than this code",
        "newest",
    ]
    change(address, without_last_record)
    with pytest.raises(Misconfigured, match="9999"):
        migrate.upgrade(address, folder.path, say=lambda line: None)


def test_what_is_taken_back_is_no_longer_held(address: str, folder: Folder) -> None:
    folder.revision("two", "one", create_table("new"))
    migrate.upgrade(address, folder.path, say=lambda line: None)
    migrate.downgrade(address, folder.path, "-1", say=lambda line: None)
    folder.revision("three", "one", create_table("other"))
    folder.without("two")
    migrate.upgrade(address, folder.path, say=lambda line: None)
    folder.revision("two", "one", create_table("new"))
    folder.without("three")
    assert state(address, folder) == "unknown here, lacks two"


def test_two_services_share_a_database(address: str, folder: Folder, other_folder: Folder) -> None:
    migrate.upgrade(address, folder.path, say=lambda line: None)
    other_folder.revision("first", None, create_table("books"))
    other_folder.without("one")
    with pytest.raises(Misconfigured, match=r"version_table = alembic_version_"):
        migrate.upgrade(address, other_folder.path, say=lambda line: None)
    with (other_folder.path / "alembic.ini").open("a") as ini:
        ini.write("version_table = alembic_version_books\n")
    other_folder.models("sa.Table('books', metadata, sa.Column('id', sa.Integer))")
    migrate.upgrade(address, other_folder.path, say=lambda line: None)
    assert {"orders", "books", "alembic_version", "alembic_version_books"} <= tables(address)
    for each in (folder, other_folder):
        assert state(address, each) == "newest"
        assert migrate.check(address, each.path) == []  # neither would drop the other's tables
    other_folder.models(
        "sa.Table('books', metadata, sa.Column('id', sa.Integer))",
        "sa.Table('pages', metadata, sa.Column('id', sa.Integer))",
    )
    sys.modules.pop(f"{other_folder.package}.models", None)
    written = migrate.revision(address, other_folder.path, "pages", say=lambda line: None)
    assert "orders" not in written.read_text()


def test_models_without_migrations_are_compared_all_the_same(
    address: str, folder: Folder, other_folder: Folder
) -> None:
    migrate.upgrade(address, folder.path, say=lambda line: None)
    (other_folder.path / "alembic.ini").unlink()
    shutil.rmtree(other_folder.path / "migrations")
    other_folder.models(
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column",
        "class Base(DeclarativeBase): pass",
        "class Book(Base):",
        "    __tablename__ = 'books'",
        "    id: Mapped[int] = mapped_column(primary_key=True)",
        "lines = sa.Table('lines', metadata, sa.Column('id', sa.Integer, primary_key=True))",
    )
    models = (f"{other_folder.package}.models",)
    sys.path.insert(0, str(other_folder.path))
    lacks = migrate.check(address, other_folder.path, models=models)
    assert {line.partition(" (")[0] for line in lacks} == {"add table books", "add table lines"}
    assert all("mainstay db init" in line for line in lacks)
    database = Database(url=address, models=models)
    (ready,) = database.readiness()
    with pytest.raises(SchemaBehind, match=r"books, lines.*`mainstay db revision .*upgrade`"):
        ready.ping()
    initial.write(other_folder.path, "Other shop", Settings, models, say=lambda line: None)
    written = migrate.revision(address, other_folder.path, "first", say=lambda line: None)
    assert "orders" not in written.read_text()  # the other service's
    migrate.upgrade(address, other_folder.path, say=lambda line: None)
    assert {"orders", "books", "lines", "alembic_version_other_shop"} <= tables(address)
    assert migrate.check(address, other_folder.path) == []
    ready.ping()
    database.close()


def test_a_migration_is_never_written_over_another(address: str, folder: Folder) -> None:
    with (folder.path / "alembic.ini").open("a") as ini:
        ini.write("file_template = %%(year)d%%(month).2d%%(day).2d_%%(slug)s\n")
    migrate.upgrade(address, folder.path, say=lambda line: None)
    written = []
    for autogenerate in (True, False, True):
        path = migrate.revision(
            address, folder.path, "same words", autogenerate=autogenerate, say=lambda line: None
        )
        written.append(path.name)
        migrate.upgrade(address, folder.path, say=lambda line: None)
    assert len(set(written)) == 3
    assert all("_same_words_" in name for name in written)
    assert len(list((folder.path / "migrations" / "versions").glob("*.py"))) == 4


def test_a_migration_needs_a_database_at_head(address: str, folder: Folder) -> None:
    with pytest.raises(Misconfigured, match="mainstay db upgrade"):
        migrate.revision(address, folder.path, "more", say=lambda line: None)
    with pytest.raises(Misconfigured, match=r"alembic\.ini"):
        migrate.revision(address, folder.path / "migrations", "more", say=lambda line: None)


UPGRADE = """
import sys
from pathlib import Path
from mainstay.resources.sqlalchemy import migrate
migrate.upgrade(sys.argv[1], Path(sys.argv[2]), say=lambda line: print(line, flush=True))
"""


# Ten interpreters would mostly measure how long imports take.
UPGRADE_AT_ONCE = """
import os, sys
from pathlib import Path
from mainstay.resources.sqlalchemy import migrate
children = []
for _ in range(int(sys.argv[3])):
    if (child := os.fork()):
        children.append(child)
        continue
    migrate.upgrade(sys.argv[1], Path(sys.argv[2]), say=lambda line: print(line, flush=True))
    os._exit(0)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def replica(address: str, folder: Folder) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", UPGRADE, address, str(folder.path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def migrate_at_once(count: int, address: str, folder: Folder) -> None:
    folder.revision("two", "one", 'op.execute("insert into orders (id) values (1)")')
    command = [sys.executable, "-c", UPGRADE_AT_ONCE, address, str(folder.path), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("applied two") == 1
    engine = create_engine(urls.sync_url(address))
    with engine.connect() as connection:
        assert connection.scalar(text("select count(*) from orders")) == 1
    engine.dispose()


def test_ten_replicas_at_once_migrate_once(database_url: str, folder: Folder) -> None:
    migrate_at_once(10, database_url, folder)


def test_replicas_at_one_file_migrate_it_once(tmp_path: Path, folder: Folder) -> None:
    migrate_at_once(3, f"sqlite:///{tmp_path / 'test.db'}", folder)


def test_a_replica_that_dies_half_way_leaves_the_rest_to_the_next(
    address: str, folder: Folder
) -> None:
    folder.revision(
        "two",
        "one",
        "op.create_table('half', sa.Column('id', sa.Integer)); "
        "print('half', flush=True); import signal; signal.pause()",
    )
    dying = replica(address, folder)
    assert dying.stdout is not None
    for line in dying.stdout:
        if line == "half\n":
            break
    folder.revision("two", "one", "op.create_table('half', sa.Column('id', sa.Integer))")
    waiting = replica(address, folder)
    assert waiting.stdout is not None
    assert "waiting" in waiting.stdout.readline()
    os.kill(dying.pid, signal.SIGKILL)
    dying.communicate(timeout=PATIENCE_SECONDS)
    said, _ = waiting.communicate(timeout=PATIENCE_SECONDS)
    assert waiting.returncode == 0, said
    assert "half" in tables(address)


def alembic(folder: Folder, address: str, *words: str) -> str:
    command = [sys.executable, "-m", "alembic", *words]
    env = {**os.environ, "APP_ENV": "test", "DATABASE_URL": address, "PYTHONPATH": str(folder.path)}
    done = subprocess.run(
        command,
        cwd=folder.path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_alembic_works_in_the_services_folder(database_url: str, folder: Folder) -> None:
    alembic(folder, database_url, "upgrade", "head")
    assert tables(database_url) == {"orders", "alembic_version"}
    assert "one (head)" in alembic(folder, database_url, "current")


def test_plain_alembic_says_what_it_applied_to_older_code(
    database_url: str, folder: Folder
) -> None:
    migrate.upgrade(database_url, folder.path, say=lambda line: None)
    folder.revision("two", "one", create_table("new"))
    alembic(folder, database_url, "upgrade", "head")
    folder.without("two")
    assert state(database_url, folder) == "newer than this code"


def test_plain_alembic_works_with_what_is_written_first(database_url: str, folder: Folder) -> None:
    (folder.path / "alembic.ini").unlink()
    shutil.rmtree(folder.path / "migrations")
    models = [f"{folder.package}.models"]
    initial.write(folder.path, "shop", Settings, models, say=lambda line: None)
    alembic(folder, database_url, "revision", "--autogenerate", "-m", "first")
    alembic(folder, database_url, "upgrade", "head")
    alembic(folder, database_url, "check")
    assert tables(database_url) == {"orders", "alembic_version_shop"}


def test_plain_alembic_prints_sql_without_a_server(folder: Folder) -> None:
    printed = alembic(folder, "postgresql://ann:hunter2@nowhere/x", "upgrade", "head", "--sql")
    assert "CREATE TABLE orders" in printed
    assert "hunter2" not in printed
