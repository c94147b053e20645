"""Requests under an `Idempotency-Key`, while twins come, processes die and clients go away."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from mainstay.auth import Tokens
from mainstay.config import Settings
from mainstay.resources.sqlalchemy import Database, retention
from tests.chaos.clients import Ask, Clients
from tests.chaos.exchanges import Answer, cut, request, said_at_last
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.stage import Stage
from tests.chaos.waiting import LIMIT_SECONDS, async_until, until

_SECRET = "a secret of the scenarios, longer than 32 bytes"
_MOMENTS = (
    "keys.before_claim",
    "keys.after_claim",
    "keys.after_effect",
    "keys.after_commit",
    "keys.after_answer",
)
_UNKNOWN = "it is unknown whether the changes were kept"
# Why a service whose database is well may not answer now: there is no connection in time, or the
# one that there is says nothing for too long.
_REASONS = {
    "every database connection of this process is in use: try again": "pool_in_use",
    "the database cannot be reached: is it up, and does database_url name it?": "not_connected",
    "the database does not answer: try again": "no_answer",
    "Redis, which keeps idempotency keys, does not answer": "no_answer_of_redis",
    f"the database closed the connection during the commit: {_UNKNOWN}": "unknown",
}
_AT_A_TIME = 12
_KEYS = "select count(*) from mainstay.idempotency_keys"
# A claim whose owner died is free again after this long: the deadline of requests.
_LEASE = {"APP_REQUEST_TIMEOUT_SECONDS": "3"}


@scenario(32, "ten clients send each request at the same time", on=("redis",))
def twins_are_told_apart(stage: Stage) -> None:
    _twins(stage)
    assert stage.sql(f"{_KEYS} where status = 201") == str(stage.ledger.accepted)


@scenario(32, "ten clients send each request at the same time, keys on Redis", on=("redis",))
def twins_are_told_apart_by_redis(stage: Stage) -> None:
    _twins(stage, APP_IDEMPOTENCY_STORE="redis")
    assert stage.sql(_KEYS) == "0"


def _twins(stage: Stage, **environment: str) -> None:
    apis = [stage.api(**environment) for _ in range(2)]
    for api in apis:
        api.ready()

    count = stage.pick(short=40, full=1000)
    refusals: Counter[str] = Counter()

    async def play() -> Clients:
        async with Clients(stage, *apis, note=note) as clients:
            await met(clients)
            units = [stage.ledger.submit() for _ in range(count)]
            places = asyncio.Semaphore(10)
            await asyncio.gather(*(ten(clients, unit, places) for unit in units))
        return clients

    def note(ask: Ask) -> None:
        if ask.status == 503:
            refusals[ask.detail] += 1

    async def met(clients: Clients) -> None:
        """Ask for the same while it is being done."""
        unit = stage.ledger.submit()
        first = asyncio.create_task(clients.order(unit, gate=stage.gate))
        twin = asyncio.create_task(clients.order(unit, gate=stage.gate))
        await async_until(lambda: clients.statuses[409])
        stage.open_gate()
        assert _as_given(await first) == _as_given(await twin)

    async def ten(clients: Clients, unit: str, places: asyncio.Semaphore) -> None:
        async with places:
            answers = await asyncio.gather(*(clients.order(unit, seconds=0.02) for _ in range(10)))
        first = [one for one in answers if "idempotency-replayed" not in one.headers]
        # None, where the first one heard that it is unknown whether it was done.
        least = 0 if any(_UNKNOWN in reason for reason in refusals) else 1
        assert least <= len(first) <= 1, f"{len(first)} answers of {unit} say that they are first"
        assert len({_as_given(one) for one in answers}) == 1, answers

    clients = asyncio.run(play())
    statuses = clients.statuses
    assert not clients.silences, clients.silences
    # How many are asked to come again says how busy the machine is. What counts for a client: it is
    # told why and when, comes again, and has its one effect and the answer of all others.
    assert statuses.keys() <= {201, 409, 503}, statuses
    assert not clients.dishonest, clients.dishonest[:3]
    assert refusals.keys() <= _REASONS.keys(), refusals
    assert statuses[201] == 10 * count + 2, statuses
    stage.figures |= {f"answers_{status}": statuses[status] for status in (201, 409, 503)}
    stage.figures |= {f"refused_{_REASONS[reason]}": n for reason, n in refusals.items()}


@scenario(33, "the API dies at six moments of a request with a key", on=("redis",))
def processes_die_at_each_moment(stage: Stage) -> None:
    _die(stage, [*_MOMENTS, "keys.before_commit"])
    # The answer is in the transaction of the effect: the one is there when the other is.
    answered = stage.sql(f"{_KEYS} where status = 201")
    assert answered == stage.sql("select count(distinct unit) from public.effects")


@scenario(33, "the same with keys on Redis, which promise less", on=("redis",), keeps_books=False)
def processes_die_at_each_moment_with_keys_on_redis(stage: Stage) -> None:
    """The effect is committed before its answer is stored: nothing that was answered is missing,
    and a death between the two is a second effect. There is no other reason for one.
    """
    _die(stage, [*_MOMENTS, "keys.before_answer"], APP_IDEMPOTENCY_STORE="redis")
    books = stage.books()
    assert books.done == books.accepted, books
    assert books.lost == books.phantom == 0, books
    in_hand = _AT_A_TIME * stage.faults.total()
    assert stage.faults["keys.before_answer: kill"] <= books.double <= in_hand, books
    stage.figures["second_effects"] = books.double


def _die(stage: Stage, moments: Sequence[str], **environment: str) -> None:
    """Have units done by processes that die at each of *moments*; some die in the same request."""

    async def twice(clients: Clients) -> None:
        unit = stage.ledger.submit()
        answers = await asyncio.gather(*(clients.order(unit, seconds=0.01) for _ in range(2)))
        assert len({_as_given(one) for one in answers}) == 1, answers

    _work_while_they_die(stage, "api", moments, twice, **_LEASE, **environment)
    assert stage.books().redone, "no death hit a request under way"


@scenario(33, "the API dies while its requests call others and send them tasks", on=("rabbitmq",))
def processes_die_that_call_and_send(stage: Stage) -> None:
    stage.worker().ready()
    stage.callee().ready()

    async def one_of_each(clients: Clients) -> None:
        for path in ("/called", "/sent"):
            unit, other = stage.ledger.submit(), stage.ledger.submit()
            answer = await clients.order(unit, path, other=other)
            assert answer.is_good, answer
            stage.ledger.settle(other, "accepted")

    moments = ["keys.after_effect", "keys.before_commit", "keys.after_commit"]
    moments += ["outbox.before_commit", "outbox.after_commit"]
    _work_while_they_die(stage, "sending_api", moments, one_of_each, **_LEASE)


def _work_while_they_die(
    stage: Stage,
    module: str,
    moments: Sequence[str],
    work: Callable[[Clients], Awaitable[None]],
    **environment: str,
) -> None:
    """Have clients do *work* again and again, until an API has died at each of *moments*."""
    deaths = [*moments] * stage.pick(short=1, full=40)
    stage.random.shuffle(deaths)
    lives = [f"{moment}:kill@{stage.random.randint(2, 6)}" for moment in deaths]
    apis = [stage.api(module, lives=lives[half::2], **environment) for half in range(2)]
    for api in apis:
        api.ready()

    async def play() -> float:
        async with (
            Clients(stage, *apis) as clients,
            asyncio.timeout(LIMIT_SECONDS + 10 * len(lives)),
        ):
            await asyncio.gather(*(again_and_again(clients) for _ in range(_AT_A_TIME // 2)))
            return clients.slowest_seconds

    async def again_and_again(clients: Clients) -> None:
        while sum(api.failpoints.total() for api in apis) < len(lives):
            await work(clients)

    stage.figures["slowest_seconds"] = round(asyncio.run(play()), 1)
    for api in apis:
        stage.faults.update(api.failpoints)


@scenario(34, "one key for other bodies, routes and users", on=("redis",), keeps_books=False)
def one_key_is_used_for_other_things(stage: Stage) -> None:
    api = stage.api(APP_JWT_SECRET_KEY=_SECRET).ready()
    tokens = Tokens(Settings(env="test", service_name="chaos", jwt_secret_key=_SECRET))
    ann, bob = ({"authorization": f"Bearer {tokens.issue(name)}"} for name in ("ann", "bob"))

    async def play() -> None:
        async with Clients(stage, api) as clients:

            async def ask(path: str, unit: str, headers: dict[str, str]) -> Answer:
                body = {"unit": unit}
                return await clients.ask_until_answered(path, body, key="one", headers=headers)

            first = await ask("/effects", "unit-0-1", ann)
            assert first.status == 201
            other_body = await ask("/effects", "unit-0-2", ann)
            assert (other_body.status, _kind(other_body)) == (422, "invalid")
            for path, headers in (("/keyed/here", ann), ("/effects", bob), ("/effects", {})):
                again = await ask(path, "unit-0-1", headers)
                assert again.status == 201
                assert "idempotency-replayed" not in again.headers
                assert again.content != first.content
            replay = await ask("/effects", "unit-0-1", ann)
            assert _as_given(replay) == _as_given(first)

    asyncio.run(play())
    assert stage.sql("select unit, count(*) from public.effects group by unit") == "unit-0-1|4"


@scenario(35, "keys of every form", on=("redis",), keeps_books=False)
def keys_come_in_every_form(stage: Stage) -> None:
    api = stage.api().ready()
    body = json.dumps({"unit": "unit-0-1"}).encode()

    def post(*lines: bytes) -> tuple[int, bytes]:
        """Say each header as it is; returns the status and the body of the only answer."""
        head = b"POST /keyed/here HTTP/1.1\r\nHost: api\r\nConnection: close\r\n"
        head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        answer = said_at_last(
            api.port, head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body
        )
        first, _, rest = answer.partition(b"\r\n\r\n")
        assert b"HTTP/1.1" not in rest, f"two answers to one request: {answer!r}"
        return int(first.split()[1]), rest

    accepted = [b"bare", b'"bare"', b"';droptableeffects;--", b"x" * 255]
    for key in accepted:
        assert post(b"Idempotency-Key: " + key)[0] == 201, key
    # Bare and quoted are one key.
    assert stage.sql(_KEYS) == str(len(accepted) - 1)
    refused = [b"", b'""', b"x" * 256, b"a b", b"a\tb", "ключ".encode(), "🔑".encode(), b"a\x7f"]
    refused += [b"a\x00b", b"a\rb", b"a\nb", b"a\r\n b"]
    for key in refused:
        status, answer = post(b"Idempotency-Key: " + key)
        assert status == 400, (key, status)
        assert json.loads(answer)["status"] == 400, answer
    assert post()[0] == 400
    assert post(b"Idempotency-Key: one", b"Idempotency-Key: two")[0] == 400
    # A header that is ended by hand begins another one, and no other request.
    status, _ = post(b"Idempotency-Key: three\r\nX-Injected: yes")
    assert status == 201
    assert stage.sql(_KEYS) == str(len(accepted))
    stage.figures |= {"accepted_forms": len(accepted) + 1, "refused_forms": len(refused) + 2}


@scenario(36, "the first answer was an error", on=("redis",), keeps_books=False)
def the_first_answer_was_an_error(stage: Stage) -> None:
    api = stage.api().ready()

    async def play() -> None:
        async with Clients(stage, api) as clients:

            async def ask(place: str, **body: str) -> tuple[int, bool]:
                sent = body or {"unit": "unit-0-1"}
                answer = await clients.ask_until_answered(f"/keyed/{place}", sent, key=place)
                return answer.status, "idempotency-replayed" in answer.headers

            for place, status in (("broken", 500), ("limited", 429)):
                assert [await ask(place), await ask(place)] == [(status, False)] * 2
            assert [await ask("missing"), await ask("missing")] == [(404, False), (404, True)]
            # A body that does not fit leaves the key to the one that does.
            assert await ask("fits", unit="wrong") == (422, False)
            assert [await ask("fits"), await ask("fits")] == [(201, False), (201, True)]

    asyncio.run(play())
    begun = stage.ledger.executions()
    assert begun == {"unit-0-1": 2 + 2 + 1 + 1}, begun
    assert stage.sql("select count(*) from public.effects") == "1"


@scenario(37, "old keys are purged while requests are under way", on=("redis",))
def old_keys_are_purged(stage: Stage) -> None:
    api = stage.api(APP_REQUEST_TIMEOUT_SECONDS=str(LIMIT_SECONDS)).ready()
    settings = Settings(env="test", database_url=stage.database_url)
    database = Database(url=stage.database_url)
    purged: Counter[str] = Counter()

    async def play() -> None:
        async with Clients(stage, api) as clients:
            for turn in range(stage.pick(short=1, full=30)):
                await a_day(clients, f"key-{turn}")
            stage.figures["answers_409"] = clients.statuses[409]

    async def a_day(clients: Clients, key: str) -> None:
        async def is_replayed() -> bool:
            body = {"unit": "unit-0-0"}
            answer = await clients.ask_until_answered("/keyed/missing", body, key=key)
            return "idempotency-replayed" in answer.headers

        units = [stage.ledger.submit() for _ in range(5)]
        gate = stage.folder / key
        slow = [asyncio.create_task(clients.order(unit, gate=str(gate))) for unit in units]
        await async_until(lambda: set(units) <= stage.ledger.executions().keys())
        assert [await is_replayed(), await is_replayed()] == [False, True]
        # For all keys, those of requests that are under way too.
        stage.sql("update mainstay.idempotency_keys set expires_at = expires_at - interval '25 h'")
        stage.fault("a day passed")
        await async_until(
            lambda: stage.sql(f"{_KEYS} where expires_at < now() and status is not null") == "0"
        )
        assert not await is_replayed(), "given again after its retention"
        twins = [
            clients.ask_until_answered("/effects", {"unit": unit, "gate": str(gate)}, key=unit)
            for unit in units
        ]
        for twin in await asyncio.gather(*twins):
            assert twin.status == 409, twin
        gate.touch()
        await asyncio.gather(*slow)

    with stage.every(0.02, lambda: purged.update(retention.purge(database, settings))):
        asyncio.run(play())
    database.close()
    stage.figures["purged"] = purged["idempotency_keys"]
    assert purged["idempotency_keys"] >= stage.faults["a day passed"]


@scenario(39, "clients go away in the middle of their requests", on=("redis",))
def clients_go_away(stage: Stage) -> None:
    api = stage.api(APP_DB_POOL_SIZE="5", APP_DB_MAX_OVERFLOW="0").ready()

    async def play() -> None:
        async with Clients(stage, api) as clients:
            places = asyncio.Semaphore(40)
            count = stage.pick(short=100, full=1000)
            keyed = [come_back(clients, stage.ledger.submit(), places) for _ in range(count)]
            plain = [leave(stage.ledger.submit(), places) for _ in range(count)]
            await asyncio.gather(*keyed, *plain)
            # On a busy machine all of them may have gone before their requests were begun.
            while effects() <= stage.ledger.accepted:
                await leave(stage.ledger.submit(), places, seconds=1.0)

    def effects() -> int:
        return int(stage.sql("select count(distinct unit) from public.effects"))

    async def leave(
        unit: str, places: asyncio.Semaphore, key: str = "", seconds: float = 0.15
    ) -> None:
        body = {"unit": unit, "seconds": 0.02, "sql_seconds": 0.02}
        data = request(
            "/effects",
            json.dumps(body).encode(),
            headers={"Idempotency-Key": key} if key else None,
        )
        async with places:
            await cut(api.port, data, stage.random.uniform(0.0, seconds))
            stage.fault("client gone")

    async def come_back(clients: Clients, unit: str, places: asyncio.Semaphore) -> None:
        await leave(unit, places, key=unit)
        async with places:
            await clients.order(unit, seconds=0.02, sql_seconds=0.02)

    asyncio.run(play())
    held = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    until(lambda: stage.sql(f"select count(*) {held} and state <> 'idle'") == "0")
    assert int(stage.sql(f"select count(*) {held}")) <= 5 + 1, "more connections than the pool has"
    stage.figures["effects"] = effects()
    assert stage.sql(f"{_KEYS} where status = 201") == str(stage.ledger.accepted)


def _as_given(answer: Answer) -> tuple[int, bytes, str]:
    """What is given again byte for byte."""
    return answer.status, answer.content, answer.headers["content-type"]


def _kind(answer: Answer) -> str:
    return str(answer.json()["type"]).rpartition(":")[2]
