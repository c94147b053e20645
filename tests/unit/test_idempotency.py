from __future__ import annotations

import pytest

from mainstay.errors import Disconnected, MainstayError, Malformed, Unavailable, UnderWay
from mainstay.idempotency import (
    MAX_STORED_BYTES,
    Answer,
    Claim,
    Request,
    Work,
    fingerprint,
    once,
    parse_key,
    verdict,
)
from mainstay.pipeline import Step, adrive, drive
from mainstay.resources.memory import MemoryStore

JSON = "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ("!~", "!~"),
        ("x" * 255, "x" * 255),
        ('"' + "x" * 255 + '"', "x" * 255),
    ],
)
def test_a_key_may_be_bare_or_quoted(value: str, key: str) -> None:
    assert parse_key(value) == key


@pytest.mark.parametrize("value", ["", '""', "a b", '"a b"', "é", "a\n", "x" * 256, "\x7f", "a\tb"])
def test_a_key_of_another_form_is_refused_by_the_name_of_its_header(value: str) -> None:
    with pytest.raises(Malformed, match="Idempotency-Key"):
        parse_key(value)


def test_json_that_means_the_same_is_the_same_body() -> None:
    assert fingerprint(b'{"a": 1, "b": [2]}', JSON) == fingerprint(b'{"b":[2],"a":1}', JSON)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 1}', b'{"a": 2}'),
        (b'{"a": 100000000000000000001}', b'{"a": 100000000000000000002}'),
        (b'{"a": 1e400}', b'{"a": 1e500}'),
        (b'{"a": "1"}', b'{"a": 1}'),
        (b"{", b"{ "),
    ],
)
def test_bodies_that_mean_something_else_differ(one: bytes, other: bytes) -> None:
    assert fingerprint(one, JSON) != fingerprint(other, JSON)


def test_the_content_type_is_part_of_the_body_and_its_parameters_are_not() -> None:
    assert fingerprint(b"1", JSON) == fingerprint(b"1", "Application/JSON")
    assert fingerprint(b"1", JSON) != fingerprint(b"1", "text/plain")


def form(boundary: str, *values: str) -> tuple[bytes, str]:
    parts = (f'--{boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\n{v}' for v in values)
    body = "\r\n".join([*parts, f"--{boundary}--\r\n"])
    return body.encode(), f'Multipart/form-data; boundary="{boundary}"'


def test_the_boundary_is_no_part_of_a_form() -> None:
    assert fingerprint(*form("x", "1", "2")) == fingerprint(*form("y-y", "1", "2"))
    assert fingerprint(*form("x", "1", "2")) != fingerprint(*form("x", "1", "3"))
    assert fingerprint(*form("x", "1", "2")) != fingerprint(*form("x", "12"))
    # What is one part looks like two without its boundary.
    inner = '1\r\n--\r\nContent-Disposition: form-data; name="a"\r\n\r\n2'
    assert fingerprint(*form("x", "1", "2")) != fingerprint(*form("x", inner))


def test_a_form_without_a_boundary_is_compared_as_it_is() -> None:
    assert fingerprint(b"1", "multipart/form-data") != fingerprint(b"2", "multipart/form-data")


def test_a_key_belongs_to_its_principal_and_its_operation_and_what_that_is_done_to() -> None:
    def scope(operation: str, principal: str, target: str = "") -> str:
        return Request.of(
            "k",
            operation=operation,
            target=target,
            principal=principal,
            body=b"",
            lease_seconds=1.0,
        ).scope

    scopes = {
        scope("POST /a", "ann"),
        scope("POST /b", "ann"),
        scope("POST /a", "bob"),
        scope("POST /a", "ann", "/a/1"),
    }
    assert len(scopes) == 4


@pytest.mark.parametrize(
    ("answer", "effect", "kept"),
    [
        (Answer(200), True, True),
        (Answer(303), True, True),
        (Answer(404), False, True),
        (Answer(409), False, True),
        (Answer(422), False, True),
        (Answer(422, fits=False), False, False),
        (Answer(429), False, False),
        (Answer(500), False, False),
        (Answer(504), False, False),
        (Answer(403, keeps=True), True, True),
        (Answer(422, fits=False, keeps=True), True, False),
        (Answer(429, keeps=True), True, False),
        (Answer(500, keeps=True), True, False),
        (Answer(200, has_raised=True), False, True),
        (Answer(303, has_raised=True), False, True),
        (Answer(303, has_raised=True, keeps=True), True, True),
    ],
)
def test_what_is_kept_of_an_answer(answer: Answer, effect: bool, kept: bool) -> None:
    found = verdict(answer)
    assert (found.keeps_effect, found.keeps_answer) == (effect, kept)


class Diary:
    """A unit of work that notes what is done with it."""

    def __init__(self, answer: Answer | None) -> None:
        self.answer = answer
        self.lines: list[str] = []
        self.work = Work(
            Step(self._handle, self._ahandle),
            lambda: None,
            Step(lambda: self.lines.append("commit"), self._acommit),
            Step(lambda: self.lines.append("rollback")),
        )

    def _handle(self) -> Answer:
        self.lines.append("handle")
        if self.answer is None:
            raise ZeroDivisionError
        return self.answer

    async def _ahandle(self) -> Answer:
        return self._handle()

    async def _acommit(self) -> None:
        self.lines.append("commit")


REQUEST = Request.of("k", operation="POST /a", principal="", body=b"", lease_seconds=30.0)


def test_the_second_arrival_gets_the_first_answer_and_is_not_handled() -> None:
    store = MemoryStore()
    first, second = Diary(Answer(201, (), b"one")), Diary(Answer(201, (), b"two"))
    assert drive(once(store, REQUEST, first.work)).body == b"one"
    again = drive(once(store, REQUEST, second.work))
    assert (again.body, again.is_replay) == (b"one", True)
    assert (first.lines, second.lines) == (["handle", "commit"], [])


async def test_asyncio_goes_the_same_way() -> None:
    store = MemoryStore()
    first = Diary(Answer(201, (), b"one"))
    assert (await adrive(once(store, REQUEST, first.work))).body == b"one"
    assert (await adrive(once(store, REQUEST, first.work))).is_replay


def test_a_twin_that_comes_meanwhile_is_refused() -> None:
    store = MemoryStore()
    assert isinstance(store.claim(REQUEST), Claim)
    diary = Diary(Answer(201))
    with pytest.raises(UnderWay):
        drive(once(store, REQUEST, diary.work))
    assert diary.lines == []


def test_where_keys_are_kept_elsewhere_no_answer_stands_without_its_effect() -> None:
    store = MemoryStore()

    def broken() -> None:
        diary.lines.append("commit")
        raise Unavailable("the database is away")

    diary = Diary(Answer(201))
    work = Work(diary.work.handle, diary.work.session, Step(broken), diary.work.rollback)
    with pytest.raises(Unavailable):
        drive(once(store, REQUEST, work))
    assert diary.lines == ["handle", "commit", "rollback"]
    assert isinstance(store.claim(REQUEST), Claim)


@pytest.mark.parametrize("is_beside_effect", [False, True])
def test_a_commit_whose_outcome_is_unknown_is_not_done_again_at_once(
    is_beside_effect: bool,
) -> None:
    store = MemoryStore()
    store.is_beside_effect = is_beside_effect

    def broken() -> None:
        raise Disconnected("the database closed the connection during the commit")

    diary = Diary(Answer(201, (), b"one"))
    work = Work(diary.work.handle, diary.work.session, Step(broken), diary.work.rollback)
    with pytest.raises(Disconnected):
        drive(once(store, REQUEST, work))
    assert diary.lines == ["handle", "rollback"]
    if is_beside_effect:  # the answer was kept with the effect
        assert store.claim(REQUEST) == diary.answer
    else:
        with pytest.raises(UnderWay):
            store.claim(REQUEST)


def test_an_effect_that_was_kept_is_answered_though_the_keys_are_away() -> None:
    class Away(MemoryStore):
        def finish(self, session: object, claim: Claim, answer: Answer) -> None:
            raise Unavailable("the keys are away")

    diary = Diary(Answer(201, (), b"one"))
    assert drive(once(Away(), REQUEST, diary.work)).body == b"one"
    assert diary.lines == ["handle", "commit"]


def test_a_refusal_is_kept_without_its_effect() -> None:
    store = MemoryStore()
    diary = Diary(Answer(404, (), b"no"))
    assert drive(once(store, REQUEST, diary.work)).status == 404
    assert diary.lines == ["handle", "rollback"]
    assert drive(once(store, REQUEST, diary.work)).is_replay


def test_a_refusal_may_be_kept_with_its_effect() -> None:
    store = MemoryStore()
    diary = Diary(Answer(403, (), b"no", keeps=True))
    assert drive(once(store, REQUEST, diary.work)).status == 403
    assert drive(once(store, REQUEST, diary.work)).is_replay
    assert diary.lines == ["handle", "commit"]


def test_the_effect_of_a_failure_may_be_kept_and_the_key_is_free_again() -> None:
    store = MemoryStore()
    diary = Diary(Answer(500, keeps=True))
    for _ in range(2):
        assert drive(once(store, REQUEST, diary.work)) is diary.answer
    assert diary.lines == ["handle", "commit"] * 2


@pytest.mark.parametrize("answer", [Answer(503), Answer(422, fits=False), None])
def test_what_is_not_kept_frees_the_key(answer: Answer | None) -> None:
    store = MemoryStore()
    diary = Diary(answer)
    if answer is None:
        with pytest.raises(ZeroDivisionError):
            drive(once(store, REQUEST, diary.work))
    else:
        assert drive(once(store, REQUEST, diary.work)) is answer
    assert diary.lines == ["handle", "rollback"]
    assert isinstance(store.claim(REQUEST), Claim)


def test_an_answer_that_is_too_long_to_be_kept_is_an_error_without_effect() -> None:
    store = MemoryStore()
    diary = Diary(Answer(200, (), b"x" * (MAX_STORED_BYTES + 1)))
    with pytest.raises(MainstayError, match="POST /a"):
        drive(once(store, REQUEST, diary.work))
    assert diary.lines == ["handle", "rollback"]
    assert isinstance(store.claim(REQUEST), Claim)


def test_what_cannot_be_undone_does_not_hide_why() -> None:
    def broken() -> None:
        raise OSError

    store = MemoryStore()
    diary = Diary(None)
    work = Work(diary.work.handle, diary.work.session, diary.work.commit, Step(broken))
    with pytest.raises(ZeroDivisionError):
        drive(once(store, REQUEST, work))
    assert isinstance(store.claim(REQUEST), Claim)


def test_memory_forgets_what_has_expired_and_never_what_is_under_way() -> None:
    now = [0.0]
    store = MemoryStore(ttl_seconds=10.0, clock=lambda: now[0])
    done = store.claim(REQUEST)
    assert isinstance(done, Claim)
    store.finish(None, done, Answer(200))
    other = Request.of("other", operation="POST /a", principal="", body=b"", lease_seconds=30.0)
    store.claim(other)
    now[0] = 11.0
    assert store.purge() == 1
    with pytest.raises(UnderWay):
        store.claim(other)
