"""What a handler did is kept before its answer leaves, or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from typing import Annotated, Any

import httpx
import pytest
import pytest_asyncio
from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import JSONResponse, RedirectResponse
from flask import Response as FlaskResponse
from flask import abort, redirect
from flask import request as flask_request
from sqlalchemy import Column, MetaData, String, Table, event, insert, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase
from starlette.background import BackgroundTask
from websockets.asyncio.client import connect

from mainstay import Resource, Service, Settings
from mainstay.http import flask
from mainstay.http.fastapi import Work, create_app, idempotent, work
from mainstay.resources.sqlalchemy import Database, migrate
from tests.databases import address, embedded_postgres
from tests.servers import served
from tests.waiting import PATIENCE_SECONDS

__all__ = ["address", "embedded_postgres"]

metadata = MetaData()
InWork = Annotated[Work, Depends(work)]

notes = Table("notes", metadata, Column("text", String))


async def noted(w: InWork) -> str:
    await w.session.execute(insert(notes).values(text="before"))
    return w.id


class Line(Resource):
    """A room of calls and tasks that remembers what it was asked for."""

    name = "line"

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, str | None]] = []
        self.tasks: list[tuple[Any, tuple[Any, ...], str | None]] = []

    def call(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an event loop must not wait for a call")

    def send(self, *args: Any, **kwargs: Any) -> str:
        raise AssertionError("an event loop must not wait for a broker")

    async def acall(
        self,
        queue: str,
        data: Any = None,
        *,
        function: str = "",
        timeout_seconds: float | None = None,
        id: str | None = None,
    ) -> Any:
        self.calls.append((queue, data, id))
        return {"called": queue}

    async def asend(
        self,
        task: Any,
        /,
        *args: Any,
        task_id: str | None = None,
        session: Any = None,
        **kwargs: Any,
    ) -> str:
        self.tasks.append((task, args, task_id))
        if session is not None:
            await session.execute(insert(notes).values(text=f"task {args[0]}"))
        return task_id or ""

    def ping(self) -> None:
        pass

    def close(self) -> None:
        pass


class Base(DeclarativeBase):
    metadata = metadata


class Note(Base):
    __table__ = notes
    __mapper_args__ = {"primary_key": [notes.c.text]}  # noqa: RUF012 - as SQLAlchemy types it


class Stop(Exception):
    """What an author answers as a success: "there is nothing to do"."""


WAYS_TO_RAISE: dict[str, Exception] = {
    "its own": Stop("nothing to do"),
    "the framework's": HTTPException(303, headers={"Location": "/elsewhere"}),
    "for a middleware": LookupError("nothing to do"),
}


async def add(session: AsyncSession) -> None:
    session.add(Note(text="late"))
    await session.flush()


WAYS_TO_WRITE: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "an object": add,
    "a statement": lambda session: session.execute(insert(notes).values(text="late")),
    "text": lambda session: session.execute(text("insert into notes values ('late')")),
}


class Scene:
    def __init__(self, app: FastAPI, service: Service) -> None:
        self.app = app
        self.database = service.resource(Database)
        self.line = service.resource(Line)
        self.begun = asyncio.Event()
        self.late: list[str] = []
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://orders"
        )

    async def texts(self) -> list[str]:
        async with self.database.asession(read_only=True) as session:
            return list((await session.execute(select(notes.c.text))).scalars())


@pytest_asyncio.fixture
async def scene(address: str) -> AsyncIterator[Scene]:
    url = address
    migrate.upgrade(url, say=lambda line: None)
    service = Service(
        Settings(env="test", service_name="orders", database_url=url), Database(), Line()
    )
    metadata.create_all(service.resource(Database).engine)
    app = create_app(service)

    async def note(w: Work, text: str) -> None:
        await w.session.execute(insert(notes).values(text=text))

    @app.post("/notes/{text}")
    async def post(text: str, w: InWork, status: int = 200) -> JSONResponse:
        await note(w, text)
        return JSONResponse({"text": text}, status_code=status)

    @app.post("/kept/{text}")
    async def kept(
        text: str, w: Annotated[Work, Depends(idempotent)], status: int = 409
    ) -> JSONResponse:
        await note(w, text)
        w.keep()
        return JSONResponse({}, status_code=status)

    @app.post("/raising/{text}")
    async def raising(text: str, w: InWork) -> None:
        await note(w, text)
        raise RuntimeError("out of luck")

    @app.exception_handler(Stop)
    async def stopped(request: Request, error: Exception) -> Response:
        return RedirectResponse("/elsewhere", 303)

    @app.middleware("http")
    async def answer(request: Request, call_next: Any) -> Any:
        try:
            return await call_next(request)
        except LookupError:
            return JSONResponse({}, 200)

    @app.post("/stopping/{text}")
    async def stopping(text: str, way: str, w: InWork, keeps: bool = False) -> None:
        await note(w, text)
        if keeps:
            w.keep()
        raise WAYS_TO_RAISE[way]

    @app.post("/stopping/{text}/in-a-dependency", dependencies=[Depends(stopping)])
    async def stopping_before() -> None:
        raise AssertionError("the dependency has raised")

    @app.post("/stopping/{text}/keyed")
    async def stopping_keyed(
        text: str, way: str, w: Annotated[Work, Depends(idempotent)], keeps: bool = False
    ) -> None:
        await stopping(text, way, w, keeps)

    @app.get("/notes/{text}")
    async def get(text: str, w: InWork) -> str:
        await note(w, text)
        return text

    @app.post("/lost")
    async def lost(w: InWork) -> None:
        locked = sqlite3.OperationalError("database is locked")
        locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise OperationalError("SELECT", None, locked)

    @app.post("/idle")
    async def idle(w: InWork) -> str:
        return w.id

    @app.post("/keyed/{text}", status_code=201)
    async def keyed(text: str, w: Annotated[Work, Depends(idempotent)], status: int = 201) -> Any:
        await note(w, text)
        return JSONResponse({"text": text}, status_code=status)

    @app.post("/late-key/{text}", status_code=201)
    async def late_key(
        text: str,
        before: Annotated[str, Depends(noted)],
        w: Annotated[Work, Depends(idempotent)],
    ) -> dict[str, str]:
        await note(w, text)
        return {"before": before, "id": w.id}

    @app.post("/slow/{text}")
    async def slow(text: str, w: InWork) -> str:
        await note(w, text)
        found.begun.set()
        await asyncio.Event().wait()
        return text

    @app.post("/calling")
    async def calling(w: InWork, early: bool = False) -> Any:
        if early:
            await note(w, "before")
        return await w.call("data_queue", {"a": 1})

    @app.post("/sending")
    async def sending(w: InWork, status: int = 202) -> JSONResponse:
        await w.send("run", 1)
        return JSONResponse({}, status)

    @app.get("/sending")
    async def sending_in_get(w: InWork) -> None:
        await w.send("run", 2)

    @app.post("/sending/committed")
    async def sending_and_committing(w: InWork) -> None:
        await w.send("run", 5)
        await w.session.commit()

    @app.post("/sending/late")
    async def sending_late(w: InWork) -> JSONResponse:
        async def send() -> None:
            with pytest.raises(RuntimeError, match="a session of its own"):
                await w.send("run", 3)

        return JSONResponse({}, background=BackgroundTask(send))

    @app.post("/writing/late/{way}")
    async def writing_late(way: str, w: InWork, opens: bool = True) -> JSONResponse:
        if opens:
            await note(w, "before")

        async def write() -> None:
            found.late.append(str((await w.session.execute(text("select 1"))).scalar_one()))
            try:
                await WAYS_TO_WRITE[way](w.session)
            except RuntimeError as error:
                found.late.append(str(error))

        return JSONResponse({}, background=BackgroundTask(write))

    @app.websocket("/sending")
    async def sending_over(socket: WebSocket, w: InWork, commits: bool) -> None:
        await socket.accept()
        await w.send("run", 4)
        if commits:
            await w.commit()
        await socket.close()

    found = Scene(app, service)
    yield found
    await found.client.aclose()
    await found.database.aclose()


async def test_a_change_is_committed_when_it_is_answered(scene: Scene) -> None:
    assert (await scene.client.post("/notes/a")).status_code == 200
    assert await scene.texts() == ["a"]


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_change_is_rolled_back_when_the_answer_is_an_error(
    scene: Scene, status: int
) -> None:
    assert (await scene.client.post(f"/notes/a?status={status}")).status_code == status
    assert await scene.texts() == []


@pytest.mark.parametrize("way", WAYS_TO_WRITE)
@pytest.mark.parametrize("opens", [True, False])
async def test_what_is_written_after_the_answer_is_refused(
    scene: Scene, way: str, opens: bool
) -> None:
    answer = await scene.client.post(f"/writing/late/{way}?opens={opens}")
    assert answer.status_code == 200
    read, refused = scene.late
    assert read == "1"
    assert "the request was answered, and its work committed: write in a session of" in refused
    assert await scene.texts() == (["before"] if opens else [])


async def test_a_change_is_rolled_back_when_the_handler_raises(scene: Scene) -> None:
    assert (await scene.client.post("/raising/a")).status_code == 500
    assert await scene.texts() == []


async def test_a_handler_may_keep_what_it_did_though_it_answers_an_error(scene: Scene) -> None:
    assert (await scene.client.post("/kept/a")).status_code == 409
    assert await scene.texts() == ["a"]


@pytest.mark.parametrize("way", WAYS_TO_RAISE)
@pytest.mark.parametrize("place", ["", "/in-a-dependency"])
async def test_what_a_handler_did_that_raised_is_undone_whatever_is_answered(
    scene: Scene, way: str, place: str
) -> None:
    answer = await scene.client.post(f"/stopping/a{place}", params={"way": way})
    assert answer.status_code < 400
    assert await scene.texts() == []
    answer = await scene.client.post(f"/stopping/a{place}", params={"way": way, "keeps": True})
    assert answer.status_code < 400
    assert await scene.texts() == ["a"]


@pytest.mark.parametrize("keeps", [False, True])
async def test_under_a_key_what_a_handler_did_that_raised_is_undone_and_its_answer_kept(
    scene: Scene, keeps: bool
) -> None:
    for _ in range(2):
        answer = await scene.client.post(
            "/stopping/a/keyed",
            params={"way": "its own", "keeps": keeps},
            headers={"Idempotency-Key": "k"},
        )
        assert answer.status_code == 303
        assert await scene.texts() == (["a"] if keeps else [])
    assert answer.headers["idempotency-replayed"] == "true"


async def test_reading_commits_nothing(scene: Scene) -> None:
    assert (await scene.client.get("/notes/a")).status_code == 200
    assert await scene.texts() == []


async def test_a_commit_that_fails_is_a_failure_of_the_request(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(session: AsyncSession) -> None:
        raise OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(AsyncSession, "commit", fail)
        answer = await scene.client.post("/notes/a")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert await scene.texts() == []


async def test_a_database_that_does_not_answer_is_a_503_and_no_stack(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await scene.client.post("/lost")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "SELECT" not in answer.text
    (line,) = [line for line in capsys.readouterr().out.splitlines() if '"mainstay.http"' in line]
    assert '"level":"warning"' in line
    assert "Traceback" not in line


async def test_a_request_that_uses_no_database_opens_nothing(scene: Scene) -> None:
    opened: list[object] = []
    event.listen(scene.database.async_engine.sync_engine, "checkout", lambda *a: opened.append(a))
    assert (await scene.client.post("/idle")).status_code == 200
    assert opened == []


async def test_every_connection_is_given_back(scene: Scene) -> None:
    for path in ("/notes/a", "/notes/b?status=400", "/raising/c", "/keyed/d"):
        await scene.client.post(path, headers={"Idempotency-Key": path})
    await scene.client.get("/notes/e")
    assert scene.database.async_engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of pools that keep connections


async def test_a_handler_whose_time_is_up_leaves_nothing_behind(scene: Scene) -> None:
    answer = await scene.client.post("/slow/a", headers={"X-Timeout-Seconds": "0.1"})
    assert answer.status_code == 504
    assert await scene.texts() == []


async def test_a_keyed_change_and_its_answer_are_kept_together(scene: Scene) -> None:
    key = {"Idempotency-Key": "k"}
    first = await scene.client.post("/keyed/a", headers=key)
    second = await scene.client.post("/keyed/a", headers=key)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.headers["idempotency-replayed"] == "true"
    assert await scene.texts() == ["a"]


async def test_a_keyed_refusal_is_kept_without_its_change(scene: Scene) -> None:
    key = {"Idempotency-Key": "k"}
    for _ in range(2):
        answer = await scene.client.post("/keyed/a?status=409", headers=key)
        assert answer.status_code == 409
    assert answer.headers["idempotency-replayed"] == "true"
    assert await scene.texts() == []


async def test_a_keyed_refusal_may_be_kept_with_its_change(scene: Scene) -> None:
    key = {"Idempotency-Key": "k"}
    for _ in range(2):
        answer = await scene.client.post("/kept/a", headers=key)
        assert answer.status_code == 409
        assert await scene.texts() == ["a"]
    assert answer.headers["idempotency-replayed"] == "true"


async def test_a_keyed_failure_may_keep_its_change_each_time_it_is_tried(scene: Scene) -> None:
    key = {"Idempotency-Key": "k"}
    for count in (1, 2):
        answer = await scene.client.post("/kept/a?status=500", headers=key)
        assert answer.status_code == 500
        assert await scene.texts() == ["a"] * count


async def test_a_keyed_failure_can_be_tried_again(scene: Scene) -> None:
    key = {"Idempotency-Key": "k"}
    assert (await scene.client.post("/keyed/a?status=500", headers=key)).status_code == 500
    answer = await scene.client.post("/keyed/a", headers=key)
    assert answer.status_code == 201
    assert await scene.texts() == ["a"]


async def test_what_is_written_before_the_key_is_asked_for_is_kept_once(scene: Scene) -> None:
    if scene.database.engine.name == "sqlite":
        pytest.skip("SQLite lets nobody claim a key while something else is being written")
    key = {"Idempotency-Key": "k"}
    for _ in range(2):
        answer = await scene.client.post("/late-key/a", headers=key)
        assert answer.status_code == 201
        assert await scene.texts() == ["before", "a"]
    assert answer.headers["idempotency-replayed"] == "true"
    assert scene.database.async_engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of pools that keep connections


@pytest.fixture
def flask_database(address: str) -> Iterator[Database]:
    migrate.upgrade(address, say=lambda line: None)
    settings = Settings(env="test", service_name="orders", database_url=address)
    with closing(Database()) as database:
        Service(settings, database)
        metadata.create_all(database.engine)
        yield database


def flask_texts(database: Database) -> list[str]:
    with database.session(read_only=True) as session:
        return list(session.scalars(select(notes.c.text)))


def test_in_flask_too_what_is_written_before_the_key_is_asked_for_is_kept_once(
    flask_database: Database,
) -> None:
    if flask_database.engine.name == "sqlite":
        pytest.skip("SQLite lets nobody claim a key while something else is being written")
    app = flask.create_app(flask_database.service)

    @app.post("/notes")
    def post() -> str:
        flask.work().session.execute(insert(notes).values(text="before"))
        flask.idempotent().session.execute(insert(notes).values(text="after"))
        return "done"

    for _ in range(2):
        answer = app.test_client().post("/notes", headers={"Idempotency-Key": "k"})
        assert answer.status_code == 200
        assert flask_texts(flask_database) == ["before", "after"]
    assert answer.headers["idempotency-replayed"] == "true"


def test_in_flask_too_a_keyed_refusal_may_be_kept_with_its_change(
    flask_database: Database,
) -> None:
    app = flask.create_app(flask_database.service)

    @app.post("/kept")
    def post() -> tuple[str, int]:
        unit = flask.idempotent()
        unit.session.execute(insert(notes).values(text="a"))
        unit.keep()
        return "no", 409

    for _ in range(2):
        answer = app.test_client().post("/kept", headers={"Idempotency-Key": "k"})
        assert answer.status_code == 409
        assert flask_texts(flask_database) == ["a"]
    assert answer.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("status", [200, 303])
@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("keeps", [False, True])
def test_in_flask_too_what_a_view_did_that_raised_is_undone(
    flask_database: Database, status: int, key: str | None, keeps: bool
) -> None:
    app = flask.create_app(flask_database.service)

    @app.errorhandler(Stop)
    def stopped(error: Stop) -> tuple[str, int]:
        return "nothing to do", status

    @app.post("/stopping")
    def stopping() -> str:
        unit = flask.idempotent()
        unit.session.execute(insert(notes).values(text="a"))
        if keeps:
            unit.keep()
        raise Stop

    for _ in range(2 if key else 1):
        headers = {"Idempotency-Key": key} if key else {}
        answer = app.test_client().post("/stopping", headers=headers)
        assert (answer.status_code, answer.text) == (status, "nothing to do")
        assert flask_texts(flask_database) == (["a"] if keeps else [])
    assert answer.headers.get("idempotency-replayed") == ("true" if key else None)


def test_in_flask_too_a_handler_of_everything_and_a_late_error_keep_nothing(
    flask_database: Database,
) -> None:
    app = flask.create_app(flask_database.service)

    @app.errorhandler(500)
    def sorry(error: Exception) -> tuple[str, int]:
        return "sorry", 200

    @app.after_request
    def late(response: FlaskResponse) -> FlaskResponse:
        if "late" in flask_request.args:
            raise Stop
        return response

    @app.post("/stopping")
    def stopping() -> str:
        flask.work().session.execute(insert(notes).values(text="a"))
        if "how" in flask_request.args:
            abort(redirect("/elsewhere"))
        if "late" not in flask_request.args:
            raise Stop
        return "done"

    for path, status in (("", 200), ("?late=1", 200), ("?how=abort", 302)):
        assert app.test_client().post(f"/stopping{path}").status_code == status
        assert flask_texts(flask_database) == []


async def test_a_client_that_goes_away_leaves_the_whole_effect_or_none(scene: Scene) -> None:
    request = asyncio.create_task(scene.client.post("/slow/a"))
    await scene.begun.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert await scene.texts() == []
    assert scene.database.async_engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of pools that keep connections


async def test_a_commit_that_has_begun_ends_though_nobody_waits(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    commit = AsyncSession.commit

    async def slowly(session: AsyncSession) -> None:
        begun.set()
        await go_on.wait()
        await commit(session)

    with monkeypatch.context() as patch:
        patch.setattr(AsyncSession, "commit", slowly)
        request = asyncio.create_task(scene.client.post("/notes/a"))
        await begun.wait()
        request.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert await scene.texts() == ["a"]


async def test_a_call_goes_through_what_the_service_holds(scene: Scene) -> None:
    assert (await scene.client.post("/calling")).json() == {"called": "data_queue"}
    ((queue, data, id),) = scene.line.calls
    assert (queue, data) == ("data_queue", {"a": 1})
    assert id


async def test_a_call_inside_an_open_transaction_is_a_mistake(scene: Scene) -> None:
    assert (await scene.client.post("/calling?early=true")).status_code == 500
    assert scene.line.calls == []


async def test_a_task_is_sent_in_the_transaction_of_the_work(scene: Scene) -> None:
    assert (await scene.client.post("/sending")).status_code == 202
    assert await scene.texts() == ["task 1"]
    assert (await scene.client.post("/sending?status=409")).status_code == 409
    assert await scene.texts() == ["task 1"]


async def test_a_task_that_a_get_sends_is_committed_too(scene: Scene) -> None:
    assert (await scene.client.get("/sending")).status_code == 200
    assert await scene.texts() == ["task 2"]


async def test_a_task_may_leave_with_a_commit_of_the_session_itself(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await scene.client.post("/sending/committed")).status_code == 200
    assert await scene.texts() == ["task 5"]
    assert "never committed" not in caplog.text


async def test_a_task_cannot_be_sent_when_the_work_is_over(scene: Scene) -> None:
    assert (await scene.client.post("/sending/late")).status_code == 200
    assert scene.line.tasks == []


@pytest.mark.parametrize("commits", [True, False])
async def test_in_a_websocket_a_task_leaves_when_it_is_committed(
    scene: Scene, commits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with served(scene.app) as port:
        url = f"ws://127.0.0.1:{port}/sending?commits={commits}"
        async with connect(url, open_timeout=PATIENCE_SECONDS) as socket:
            await socket.wait_closed()
    assert await scene.texts() == (["task 4"] if commits else [])
    assert ("never committed" in caplog.text) is not commits


async def test_without_a_database_a_task_is_sent_at_once_under_the_id_of_the_work() -> None:
    line = Line()
    service = Service(Settings(env="test", service_name="orders"), line)
    for _ in range(2):
        work_of_a_key = Work(service)
        work_of_a_key.name("one key")
        assert [await work_of_a_key.send("run", 1), await work_of_a_key.send("run", 2)]
    ids = [task_id for _, _, task_id in line.tasks]
    assert ids[:2] == ids[2:]
    assert ids[0] == work_of_a_key.id != ids[1]
