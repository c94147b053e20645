from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import Signature, chunks
from kombu.utils.json import loads

from mainstay.errors import Invalid
from mainstay.resources.sqlalchemy.workflows import NewStep
from mainstay.tasks.celery.canvas import STEPS_LIMIT, steps_of

app = Celery(set_as_current=False)


def step(name: str, *args: object, **options: Any) -> Signature:
    return app.signature(name, args=args, options=options)


def drawn(canvas: Any) -> list[tuple[str, list[str], object]]:
    """Return of each step its name, whom it waits for and what it is given, by names."""
    steps = steps_of(canvas)
    names = {each.task_id: each.name for each in steps}

    def named(takes: object) -> object:
        if isinstance(takes, list | tuple):
            return [names[id] for id in takes]
        return None if takes is None else names[str(takes)]

    return [(each.name, [names[id] for id in each.needs], named(each.takes)) for each in steps]


def kept(step: NewStep) -> dict[str, Any]:
    found: dict[str, Any] = loads(step.signature)
    return found


@pytest.mark.parametrize(
    ("canvas", "expected"),
    [
        (step("a"), [("a", [], None)]),
        (chain(step("a"), step("b")), [("a", [], None), ("b", ["a"], "a")]),
        (
            chain(step("a"), step("b").set(immutable=True), step("c")),
            [("a", [], None), ("b", ["a"], None), ("c", ["b"], "b")],
        ),
        (group(step("a"), step("b")), [("a", [], None), ("b", [], None)]),
        (
            chord([step("a"), step("b")], step("c")),
            [("a", [], None), ("b", [], None), ("c", ["a", "b"], ["a", "b"])],
        ),
        (
            chain(step("a"), group(step("b"), chain(step("c"), step("d"))), step("e")),
            [
                ("a", [], None),
                ("b", ["a"], "a"),
                ("c", ["a"], "a"),
                ("d", ["c"], "c"),
                ("e", ["b", "d"], ["b", "d"]),
            ],
        ),
        (
            chain(group(step("a"), group(step("b"))), group(step("c"), step("d"))),
            [
                ("a", [], None),
                ("b", [], None),
                ("c", ["a", "b"], ["a", "b"]),
                ("d", ["a", "b"], ["a", "b"]),
            ],
        ),
        (chord([], step("a")), [("a", [], [])]),
        (
            chain(step("a"), chord([step("b")], step("c")), step("d")),
            [("a", [], None), ("b", ["a"], "a"), ("c", ["b"], ["b"]), ("d", ["c"], "c")],
        ),
    ],
)
def test_a_canvas_is_steps_that_wait_for_one_another(
    canvas: Any, expected: list[tuple[str, list[str], object]]
) -> None:
    assert drawn(canvas) == expected


def test_a_canvas_that_was_json_on_its_way_is_the_same() -> None:
    canvas = chain(step("a"), group(step("b"), step("c")), step("d"))
    assert drawn(json.loads(json.dumps(canvas))) == drawn(canvas)


def test_options_of_the_whole_hold_for_each_step_that_does_not_say_otherwise() -> None:
    canvas = chain(step("a"), step("b", queue="gpu", countdown=3)).set(queue="cpu", priority=7)
    first, second = map(kept, steps_of(canvas))
    assert first["options"] == {"queue": "cpu", "priority": 7}
    assert second["options"] == {"queue": "gpu", "countdown": 3, "priority": 7}


def test_whoever_is_to_hear_of_a_chord_that_fails_hears_of_each_of_its_steps() -> None:
    heard, of_whole, of_one = step("heard"), step("of_whole"), step("of_one")
    header = [step("a"), step("b").on_error(of_one)]
    inner = chord(header, step("c").on_error(heard))
    for canvas in (inner, chain(step("first"), inner).on_error(of_whole)):
        called = {
            each.name: [one["task"] for one in kept(each)["options"].get("link_error", [])]
            for each in steps_of(canvas)
        }
        outer = ["of_whole"] if "first" in called else []
        assert called.pop("first", outer) == outer
        assert called == {
            "a": [*outer, "heard"],
            "b": [*outer, "heard", "of_one"],
            "c": [*outer, "heard"],
        }


def test_options_of_chunks_hold_for_each_of_them() -> None:
    whole = chunks(step("a"), [(1,), (2,), (3,)], 2, app=app).set(queue="gpu")
    steps = steps_of(whole)
    assert [kept(each)["options"] for each in steps] == [{"queue": "gpu"}] * 2


def test_what_the_whole_is_given_its_first_steps_are_given() -> None:
    canvas = chain(group(step("a", 2), step("b")), step("c")).clone(args=(1,))
    assert [kept(each)["args"] for each in steps_of(canvas)] == [[1, 2], [1], []]


def test_each_step_has_an_id_of_its_own_even_when_its_signature_has_one() -> None:
    one = step("a", task_id="given", root_id="r")
    steps = steps_of(group(one, one))
    assert len({each.task_id for each in steps} | {"given"}) == 3
    assert kept(steps[0])["options"] == {}


@pytest.mark.parametrize("option", ["countdown", "eta", "link"])
def test_what_can_hold_for_one_step_alone_is_refused_on_the_whole(option: str) -> None:
    with pytest.raises(Invalid, match=option):
        steps_of(chain(step("a"), step("b")).set(**{option: 5}))


def test_a_workflow_has_steps_and_not_too_many() -> None:
    with pytest.raises(Invalid, match="at least one step"):
        steps_of(group([]))
    with pytest.raises(Invalid, match=str(STEPS_LIMIT)):
        steps_of(group([step("a") for _ in range(STEPS_LIMIT + 1)]))
