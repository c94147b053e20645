"""Lines of many processes, as a developer sees them."""

from __future__ import annotations

import io
import sys

import pytest

from mainstay.processes.output import Output, wants_colour


def test_names_stand_in_a_column_without_colour_where_none_is_wanted() -> None:
    stream = io.BytesIO()
    output = Output(["data.api", "b"], colour=False, stream=stream)
    output.line("b", b"one\r\n")
    output.note("two\nthree")
    output.block("four\n")
    assert stream.getvalue().decode() == (
        "b        | one\nmainstay | two\nmainstay | three\nfour\n"
    )


def test_each_process_has_a_colour_of_its_own() -> None:
    stream = io.BytesIO()
    output = Output(["a", "b"], colour=True, stream=stream)
    output.line("a", b"x")
    output.line("b", b"x")
    first, second = stream.getvalue().decode().splitlines()
    assert first == "\033[36ma        |\033[0m x"
    assert second.startswith("\033[33mb")


def test_no_color_and_dumb_terminals_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert wants_colour({"TERM": "xterm"})
    assert not wants_colour({"TERM": "xterm", "NO_COLOR": "1"})
    assert not wants_colour({"TERM": "dumb"})
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert not wants_colour({"TERM": "xterm"})


def test_a_terminal_that_is_gone_stops_nobody() -> None:
    stream = io.BytesIO()
    output = Output(["a"], colour=False, stream=stream)
    stream.close()
    output.line("a", b"x")
