from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mainstay.errors import Refuse
from mainstay.logs.redaction import Redaction
from mainstay.tasks.telling import error_of, result_of


@pytest.mark.parametrize(
    "result",
    [None, 1, "text", [1, {"a": None}], {1: "one"}, 2**70, "a\\u0000b", "\U0001f600", b"bytes"],
)
def test_what_json_can_hold_is_kept(result: Any) -> None:
    assert result_of(result) == (result, None)


@pytest.mark.parametrize("result", [{1, 2}, object(), "\udcff", ["a\x00b"], "\\\x00", float("nan")])
def test_anything_else_is_nothing_with_a_note(result: Any) -> None:
    kept, note = result_of(result)
    assert kept is None
    assert note is not None
    assert note["type"] == "ResultNotKept"
    assert type(result).__name__ in note["detail"]


@dataclass
class Point:
    x: int


def test_what_json_can_show_alone_is_kept_unless_the_next_step_is_given_it() -> None:
    assert result_of(Point(1)) == (Point(1), None)
    kept, note = result_of({"p": Point(1)}, is_handed_on=True)
    assert kept == {"p": Point(1)}
    assert note is not None
    assert "it['p'] is a Point" in note["detail"]


def test_the_words_of_an_error_can_be_stored() -> None:
    told = error_of(ValueError("bad \udcff\x00 name"), Redaction())
    assert told == {"type": "ValueError", "detail": "bad \\udcff\\x00 name"}
    assert error_of(Refuse("not this"), Redaction()) == {"type": "Refuse", "detail": "not this"}


def test_an_error_whose_words_are_broken_is_told_by_its_kind() -> None:
    class Wordless(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert error_of(Wordless(), Redaction())["type"] == "Wordless"


def test_an_error_is_told_without_secrets() -> None:
    told = error_of(Refuse("token=abc-123 has no access"), Redaction())
    assert told["detail"] == "token=*** has no access"
