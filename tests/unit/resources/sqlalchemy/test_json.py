from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.resources.sqlalchemy.json import dumps, loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc\0é"), inner),
)


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert loads(dumps(value)) == value


def test_an_integer_of_any_length_keeps_its_digits() -> None:
    assert loads(dumps({"n": 123456789012345678901234567890})) == {
        "n": 123456789012345678901234567890
    }


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        dumps(object())


def test_a_bare_number_of_sqlite_is_left_to_sqlalchemy() -> None:
    with pytest.raises(TypeError):
        loads(1)  # type: ignore[arg-type] # what the driver gives
