from __future__ import annotations

import pytest

from mainstay.errors import Invalid, PreconditionFailed
from mainstay.http.etags import check_if_match, etag_of
from mainstay.http.pages import cut, decode_cursor, encode_cursor


def test_a_cursor_comes_back_as_it_went() -> None:
    position = ("2026-01-31T12:00:00+00:00", 7, None, "é")
    assert decode_cursor(encode_cursor(position)) == position


@pytest.mark.parametrize("cursor", ["", "x", "....", "e30", "W1tdXQ", "é", "A" * 2000, "bnVsbA"])
def test_what_was_never_a_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(Invalid) as caught:
        decode_cursor(cursor)
    assert caught.value.errors[0].pointer == "/cursor"


def test_a_row_more_than_the_page_holds_makes_a_next_cursor() -> None:
    items, cursor = cut([3, 2, 1], 2, lambda row: (row,))
    assert (items, decode_cursor(cursor or "")) == ([3, 2], (2,))
    assert cut([3, 2], 2, lambda row: (row,)) == ([3, 2], None)
    assert cut([], 2, lambda row: (row,)) == ([], None)


def test_a_tag_changes_with_its_row() -> None:
    assert etag_of(1, "a") == etag_of(1, "a") != etag_of(2, "a")
    assert etag_of(1).startswith('"')


def test_a_change_needs_the_tag_of_what_is_there() -> None:
    etag = etag_of(1)
    check_if_match(None, etag)
    check_if_match(etag, etag)
    check_if_match(f'"other", {etag}', etag)
    check_if_match("*", etag)


@pytest.mark.parametrize("if_match", ['"other"', f"W/{etag_of(1)}", ""])
def test_a_change_of_what_has_changed_is_refused(if_match: str) -> None:
    with pytest.raises(PreconditionFailed):
        check_if_match(if_match, etag_of(1))


@pytest.mark.parametrize("if_match", ["*", etag_of(1)])
def test_a_change_of_what_is_gone_is_refused(if_match: str) -> None:
    with pytest.raises(PreconditionFailed):
        check_if_match(if_match, None)
