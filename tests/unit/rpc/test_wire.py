"""What a call and its answer look like on the wire."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mainstay import errors
from mainstay.errors import (
    Bury,
    Conflict,
    Disconnected,
    FieldError,
    Invalid,
    LimitExceeded,
    MainstayError,
    NotConnected,
    Refuse,
    RemoteFailure,
    Retry,
    TooLarge,
    Unavailable,
)
from mainstay.rpc import wire

LIMIT = 100_000

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=10,
)


def answer_to(error: BaseException) -> MainstayError:
    with pytest.raises(MainstayError) as caught:
        wire.decode_answer(wire.encode_error(error), limit_bytes=LIMIT)
    return caught.value


@given(JSON)
def test_data_comes_out_as_it_went_in(data: Any) -> None:
    body = wire.encode_request(data, limit_bytes=LIMIT)
    assert wire.decode_request(body, limit_bytes=LIMIT) == data
    answer = wire.encode_result(data, limit_bytes=LIMIT)
    assert wire.decode_answer(answer, limit_bytes=LIMIT) == data


def test_a_model_is_sent_as_what_it_holds() -> None:
    class Charge(BaseModel):
        amount: int

    charge = Charge(amount=5)
    body = wire.encode_request({"charge": charge}, limit_bytes=LIMIT)
    assert orjson.loads(body) == {"charge": {"amount": charge.amount}}


@pytest.mark.parametrize("kind", [k for k in vars(errors).values() if isinstance(k, type)])
def test_every_error_that_is_for_the_caller_survives(kind: type) -> None:
    if not issubclass(kind, (Retry, Refuse)):
        return
    error: MainstayError
    if issubclass(kind, LimitExceeded):
        error = kind("too often", retry_after_seconds=3.0, limit=5, window_seconds=60)
    else:
        error = kind("it did not work")
    there = answer_to(error)
    if isinstance(error, Unavailable):
        # The wire that the server itself used is not the one that the caller used.
        assert type(there) is Unavailable
    else:
        assert type(there) is kind
    assert str(there) == str(error)
    assert vars(there) == vars(error)


def test_an_authors_own_error_comes_back_as_the_nearest_of_ours() -> None:
    class OutOfStock(Conflict):
        pass

    there = answer_to(OutOfStock("no chairs are left"))
    assert type(there) is Conflict
    assert str(there) == "no chairs are left"


def test_an_invalid_request_names_its_fields() -> None:
    fields = (FieldError("/a", "is missing"), FieldError("/b/0", "must be a number"))
    there = answer_to(Invalid("it does not fit", errors=fields))
    assert isinstance(there, Invalid)
    assert there.errors == fields


@pytest.mark.parametrize("lost", [NotConnected("a"), Disconnected("b")])
def test_a_broken_wire_behind_the_server_is_not_the_callers(lost: Unavailable) -> None:
    assert type(answer_to(lost)) is Unavailable


def test_a_failure_has_its_type_and_says_why() -> None:
    class CannotSort(Bury):
        pass

    there = answer_to(CannotSort("1 and 'a' have no order"))
    assert isinstance(there, RemoteFailure)
    assert (there.type, there.detail) == ("CannotSort", "1 and 'a' have no order")
    again = answer_to(there)
    assert isinstance(again, RemoteFailure)
    assert (again.type, again.detail) == (there.type, there.detail)


def test_what_nobody_foresaw_tells_nothing_but_its_kind() -> None:
    there = answer_to(KeyError("card 4242 4242"))
    assert isinstance(there, RemoteFailure)
    assert there.type == "KeyError"
    assert "4242" not in there.detail


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b'{"error":5}', b'{"error":{"type":"Invalid"}}', b"\xff"]
)
def test_an_answer_that_is_none_is_a_failure(body: bytes) -> None:
    with pytest.raises(RemoteFailure, match="no answer"):
        wire.decode_answer(body, limit_bytes=LIMIT)


def test_an_answer_may_be_larger_than_a_request_and_not_without_end() -> None:
    text = "x" * (LIMIT * 3)
    assert wire.decode_answer(wire.encode_result(text, limit_bytes=LIMIT), limit_bytes=LIMIT)
    with pytest.raises(Bury, match="bytes"):
        wire.encode_result("x" * (LIMIT * 5), limit_bytes=LIMIT)
    with pytest.raises(RemoteFailure, match="TooLarge"):
        wire.decode_answer(b'{"result":"' + b"x" * (LIMIT * 5) + b'"}', limit_bytes=LIMIT)


def test_a_request_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(TooLarge, match="100002 bytes and may hold 100000"):
        wire.encode_request("x" * LIMIT, limit_bytes=LIMIT)


@pytest.mark.parametrize(
    "data", [float("nan"), [1, {"a": float("inf")}], {1, 2}, object(), 2**70, "\ud800"]
)
def test_what_json_cannot_hold_is_not_sent_as_something_else(data: Any) -> None:
    with pytest.raises(Invalid) as caught:
        wire.encode_request(data, limit_bytes=LIMIT)
    assert caught.value.errors[0].pointer == ""


def test_none_is_no_number_and_may_be_sent() -> None:
    assert wire.encode_request([None, "null", 1.5], limit_bytes=LIMIT) == b'[null,"null",1.5]'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "decode:JSON"),
        (b"{", "decode:JSON"),
        (b"NaN", "decode:JSON"),
        (b"[" * 65 + b"]" * 65, "refused:TooDeep"),
        (b"[" * 5000 + b"]" * 5000, "decode:JSON"),
        (b'"' + b"x" * LIMIT + b'"', "refused:TooLarge"),
    ],
)
def test_a_request_that_is_none_says_why(body: bytes, reason: str) -> None:
    with pytest.raises(wire.Unreadable) as caught:
        wire.decode_request(body, limit_bytes=LIMIT)
    assert caught.value.reason == reason


def test_depth_is_counted_and_brackets_are_not() -> None:
    wide = b"[" + b",".join([b"[]"] * 500) + b"]"
    assert len(wire.decode_request(wide, limit_bytes=LIMIT)) == 500
    deep = b'{"a":' * 64 + b"1" + b"}" * 64
    assert wire.decode_request(deep, limit_bytes=LIMIT)
    text = b'"' + b"[" * 1000 + b'"'
    assert wire.decode_request(text, limit_bytes=LIMIT) == "[" * 1000
