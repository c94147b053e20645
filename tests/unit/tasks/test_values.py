from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.tasks.values import packed, shown, unpacked


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    SMALL = "small"


@dataclass
class Point:
    x: int


VALUES = [
    datetime.fromisoformat("2026-01-02T03:04:05.000006"),
    datetime(2026, 1, 2, tzinfo=UTC),
    date(2026, 1, 2),
    time(3, 4),
    Decimal("1.10"),
    UUID(int=5),
    b"\x00\xff",
    2**80,
    {"__type__": "datetime", "__value__": "no date"},
    {"__type__": "dict", "__value__": [["a", 1]]},
    {"a": [{"__type__": "uuid", "__value__": {"hex": "zz"}}]},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    back = unpacked(json.loads(json.dumps(packed(value), allow_nan=False)))
    assert back == value
    assert type(back) is type(value)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.sampled_from(["__type__", "__value__"]), inner)
    ),
)


@given(PLAIN)
def test_any_value_comes_back_as_it_was(value: Any) -> None:
    assert unpacked(json.loads(json.dumps(packed(value)))) == value


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (float("nan"), "it is nan"),
        ({"a": [1, float("inf")]}, r"it\['a'\]\[1\] is inf"),
        ([Colour.RED], r"it\[0\] is a Colour"),
        ({"s": Size.SMALL}, r"it\['s'\] is a Size"),
        ({"p": Point(1)}, r"it\['p'\] is a Point"),
        ({1, 2}, "it is a set"),
    ],
)
def test_what_json_cannot_hold_is_named(value: object, named: str) -> None:
    with pytest.raises((TypeError, ValueError), match=named):
        packed(value)


def test_people_are_shown_plain_json() -> None:
    value = {"at": date(2026, 1, 2), "price": [Decimal("1.10")], "id": UUID(int=5)}
    assert json.loads(json.dumps(shown(value))) == {
        "at": "2026-01-02",
        "price": ["1.10"],
        "id": str(UUID(int=5)),
    }
