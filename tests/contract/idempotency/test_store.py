"""A key is claimed once, its answer is given again, who lost it cannot finish: in every room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mainstay.errors import Fenced, Invalid, UnderWay
from mainstay.idempotency import Answer, Claim, Request, Store
from mainstay.testing.wait import eventually

if TYPE_CHECKING:
    from typing import Any

    from tests.contract.idempotency.conftest import Room

CREATED = Answer(
    201, (("content-type", "application/json"), ("location", "/orders/1")), b'{"id": 1}\x00\xff'
)


def asked(
    key: str = "k1",
    *,
    body: bytes = b'{"a": 1}',
    principal: str = "ann",
    lease_seconds: float = 30.0,
) -> Request:
    return Request.of(
        key,
        operation="POST /orders",
        principal=principal,
        body=body,
        content_type="application/json",
        lease_seconds=lease_seconds,
    )


def claimed(store: Store[Any], request: Request) -> Claim:
    found = store.claim(request)
    assert isinstance(found, Claim)
    return found


def test_the_second_arrival_hears_that_the_first_is_under_way(room: Room) -> None:
    claimed(room.store, asked())
    with pytest.raises(UnderWay) as refused:
        room.store.claim(asked())
    assert refused.value.retry_after_seconds >= 1.0


def test_the_answer_is_given_again_byte_for_byte(room: Room) -> None:
    room.store.finish(None, claimed(room.store, asked()), CREATED)
    again = room.store.claim(asked())
    assert again == CREATED
    assert isinstance(again, Answer)
    assert again.is_replay


def test_a_body_that_differs_in_blanks_alone_is_the_same(room: Room) -> None:
    room.store.finish(None, claimed(room.store, asked()), CREATED)
    assert room.store.claim(asked(body=b'{ "a":1 }')) == CREATED


def test_another_body_is_refused_while_under_way_and_after(room: Room) -> None:
    claim = claimed(room.store, asked())
    with pytest.raises(Invalid):
        room.store.claim(asked(body=b'{"a": 2}'))
    room.store.finish(None, claim, CREATED)
    with pytest.raises(Invalid):
        room.store.claim(asked(body=b'{"a": 2}'))


def test_a_key_of_somebody_else_is_another_key(room: Room) -> None:
    claimed(room.store, asked())
    claimed(room.store, asked(principal="bob", body=b'{"a": 2}'))


def test_a_key_that_was_freed_can_be_claimed_by_another_body(room: Room) -> None:
    room.store.free(claimed(room.store, asked()))
    claimed(room.store, asked(body=b'{"a": 2}'))


def test_an_abandoned_claim_is_taken_over_and_its_owner_fenced_off(room: Room) -> None:
    first = claimed(room.store, asked(lease_seconds=0.05))
    second = eventually(lambda: claimed(room.store, asked()))
    assert second.epoch > first.epoch
    with pytest.raises(Fenced):
        room.store.finish(None, first, CREATED)
    room.store.free(first)
    with pytest.raises(UnderWay):
        room.store.claim(asked())
    room.store.finish(None, second, CREATED)
    assert room.store.claim(asked()) == CREATED


def test_an_abandoned_claim_is_not_taken_over_for_another_body(room: Room) -> None:
    claimed(room.store, asked(lease_seconds=0.05))
    with pytest.raises(Invalid):
        room.store.claim(asked(body=b'{"a": 2}'))
    eventually(lambda: claimed(room.store, asked()))


def test_an_answer_is_given_once(room: Room) -> None:
    claim = claimed(room.store, asked())
    room.store.finish(None, claim, CREATED)
    with pytest.raises(Fenced):
        room.store.finish(None, claim, Answer(200))
    room.store.free(claim)
    assert room.store.claim(asked()) == CREATED


def test_an_answer_is_forgotten_after_its_time(room: Room) -> None:
    claim = claimed(room.forgetful, asked())
    room.forgetful.finish(None, claim, CREATED)
    eventually(lambda: claimed(room.forgetful, asked(body=b'{"a": 2}')))


async def test_the_asyncio_twins_do_the_same(room: Room) -> None:
    claim = await room.store.aclaim(asked())
    assert isinstance(claim, Claim)
    with pytest.raises(UnderWay):
        await room.store.aclaim(asked())
    await room.store.afree(claim)
    claim = await room.store.aclaim(asked())
    assert isinstance(claim, Claim)
    await room.store.afinish(None, claim, CREATED)
    assert await room.store.aclaim(asked()) == CREATED
    with pytest.raises(Fenced):
        await room.store.afinish(None, claim, Answer(200))
