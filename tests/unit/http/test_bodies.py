from __future__ import annotations

import pytest

from mainstay.errors import Invalid, Malformed
from mainstay.http.bodies import check_form, check_json, is_json, pointer_to


@pytest.mark.parametrize(
    "body", [b"{}", b"null", b'"[[[["', b'"\\\\u0000"', b"1e308", b"[" * 64 + b"]" * 64]
)
def test_json_passes(body: bytes) -> None:
    check_json(body)


def test_many_brackets_beside_one_another_are_not_deep() -> None:
    check_json(b"[" + b"[]," * 1000 + b"[]]")
    check_json(b'{"a": "' + b"{" * 1000 + b'"}')


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_what_is_nested_deeper_than_64_levels_is_refused(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    check_json(opening * 63 + b"[]" + closing * 63)
    with pytest.raises(Malformed, match="64 levels"):
        check_json(opening * 64 + b"[]" + closing * 64)


@pytest.mark.parametrize("body", [b"NaN", b"[1e400]", b'"\\ud800"', b"{'a': 1}", b"\xff", b"[1,]"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="not JSON"):
        check_json(body)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"a": 1, "a": 1}', "a"),
        (b'{"a": 1, "\\u0061": 2}', "a"),
        (b'[{"a": {"b": [{"c:": 1, "d": 2, "c:": 3}]}}]', "c:"),
        # What an escape adds makes up for what the name takes away.
        (b'{"a": 1, "a": "\\u003a"}', "a"),
    ],
)
def test_a_name_that_stands_twice_in_one_object_is_refused(body: bytes, name: str) -> None:
    with pytest.raises(Malformed, match=f"the name '{name}' twice"):
        check_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b'[{"a": 1}, {"a": 2}, {"b": {"a": 3}, "a": 4}]',
        b'{"a": "b: c", "b": ":::", "::": "\\u003a", "\\u003a": 1e3}',
        b'{"a": "\\/\\n\\t: \xc3\xa9", "\xc3\xa9": 100000000000000000000000}',
    ],
)
def test_names_of_different_objects_and_colons_in_texts_are_no_twins(body: bytes) -> None:
    check_json(body)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'"\\u0000"', ""),
        (b'{"a": [1, {"b": "x\\u0000"}]}', "/a/1/b"),
        (b'{"a\\u0000": 1}', ""),
        (b'{"a/b": "\\u0000"}', "/a~1b"),
    ],
)
def test_a_character_that_cannot_be_stored_is_pointed_at(body: bytes, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_json(body)
    assert caught.value.errors[0].pointer == pointer


def test_a_form_may_not_hold_it_either() -> None:
    check_form(b"a=1&b=%20")
    with pytest.raises(Invalid):
        check_form(b"a=%00")


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("application/json5", False),
        ("text/json", False),
        ("", False),
    ],
)
def test_json_is_announced_by_its_type(content_type: str, expected: bool) -> None:
    assert is_json(content_type) is expected


def test_a_pointer_escapes_what_has_a_meaning_in_it() -> None:
    assert pointer_to(("a/b", 0, "~")) == "/a~1b/0/~0"
