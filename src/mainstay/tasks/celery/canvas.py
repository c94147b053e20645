"""The steps of a canvas, in order: which ones each waits for, and what it is given.

Chains, groups, chords, and whatever they are made into of one another, become a list of steps.
What a step is given is what Celery would give it: the result of the step before it, or the list of
the results of a group; nothing when it is immutable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from celery import signature as signature_of
from celery.canvas import chunks
from celery.utils import uuid
from kombu.utils.functional import maybe_list
from kombu.utils.json import dumps

from mainstay.errors import Invalid
from mainstay.resources.sqlalchemy.workflows import NewStep

__all__ = ["STEPS_LIMIT", "steps_of"]

STEPS_LIMIT = 10_000
# What holds for each step when it is set on the whole and not on the step.
_INHERITED = (
    *("queue", "exchange", "routing_key", "priority", "expires", "time_limit", "soft_time_limit"),
    *("serializer", "compression", "headers", "link_error"),
)
_OF_A_STEP = ("countdown", "eta", "link")
# Who made the signature for another purpose may have given it these; a step has its own.
_ITS_OWN = frozenset({"task_id", "root_id", "parent_id", "group_id", "group_index", "chord"})


@dataclass(frozen=True, slots=True)
class _Before:
    """What comes before a step: whom it waits for, and whose results it is given."""

    needs: Sequence[str] = ()
    gives: str | Sequence[str] | None = None


def steps_of(canvas: Any) -> list[NewStep]:
    """Return the steps of *canvas*, each after those that it waits for.

    Args:
        canvas: A signature, a chain, a group or a chord.

    Raises:
        Invalid: It has no steps, or too many, or options that hold for none of them.
    """
    steps = _Steps()
    steps.add(canvas, (), {}, _Before())
    if not steps.found:
        raise Invalid("a workflow has at least one step, and this one has none")
    return steps.found


class _Steps:
    def __init__(self) -> None:
        self.found: list[NewStep] = []

    def add(
        self, part: Any, args: Sequence[Any], options: Mapping[str, Any], before: _Before
    ) -> _Before:
        """Add the steps of *part*, and return what comes before whatever follows it.

        Args:
            args: What the whole was given for its first steps.
            options: What the whole says of each of its steps.
        """
        part = signature_of(part)
        kind = part.subtask_type
        if part.task == "celery.chunks":  # whose own task would send them beside the workflow
            whole = chunks(**part.kwargs, app=part._app).group()
            whole.options.update(part.options)
            return self.add(whole, args, options, before)
        if kind not in ("chain", "group", "chord"):
            return self._add_step(part, args, options, before)
        args = (*args, *part.args)
        options = _together(options, _inherited(part))
        if kind == "chord":
            # What is to be called when the body fails hears of its header, too, as in Celery.
            heard = {"link_error": _errbacks_of(part.body)}
            header = self._add_group(part.tasks, args, _together(options, heard), before)
            return self.add(part.body, (), options, header)
        if kind == "group":
            return self._add_group(part.tasks, args, options, before)
        for each in part.tasks:
            before, args = self.add(each, args, options, before), ()
        return before

    def _add_group(
        self,
        members: Any,
        args: Sequence[Any],
        options: Mapping[str, Any],
        before: _Before,
    ) -> _Before:
        if isinstance(members, dict):  # a header that is a canvas of its own
            members = [members]
        ends = [self.add(each, args, options, before) for each in members]
        if not ends:
            return replace(before, gives=())
        # As in Celery, a group within a group is as if its members were in the outer one.
        needs = dict.fromkeys(id for end in ends for id in end.needs)
        return _Before(tuple(needs), tuple(id for end in ends for id in _given(end)))

    def _add_step(
        self, part: Any, args: Sequence[Any], options: Mapping[str, Any], before: _Before
    ) -> _Before:
        if len(self.found) == STEPS_LIMIT:
            raise Invalid(f"a workflow has {STEPS_LIMIT} steps at most: split it")
        own = {name: value for name, value in part.options.items() if name not in _ITS_OWN}
        kept = {
            "task": part.task,
            "args": list(part.args if part.immutable else (*args, *part.args)),
            "kwargs": dict(part.kwargs),
            "options": _together(options, own),
        }
        step = NewStep(
            task_id=uuid(),
            name=part.task,
            signature=dumps(kept),
            needs=before.needs,
            takes=None if part.immutable else before.gives,
        )
        self.found.append(step)
        return _Before((step.task_id,), step.task_id)


def _given(before: _Before) -> Sequence[str]:
    if before.gives is None:
        return ()
    return (before.gives,) if isinstance(before.gives, str) else before.gives


def _together(outer: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what holds for a part that has options of its own; it is heard of by both."""
    found = {**outer, **own}
    errbacks: list[Any] = []
    for part in (outer, own):
        errbacks += [e for e in maybe_list(part.get("link_error")) or () if e not in errbacks]
    if errbacks:
        found["link_error"] = errbacks
    return found


def _errbacks_of(body: Any) -> list[Any]:
    found = list(maybe_list(body.options.get("link_error")) or ())
    if body.subtask_type == "group":  # Celery sets them on each of its members
        for member in body.tasks:
            found += [each for each in _errbacks_of(member) if each not in found]
    return found


def _inherited(whole: Any) -> dict[str, Any]:
    for name in _OF_A_STEP:
        if whole.options.get(name):
            raise Invalid(
                f"{name!r} is set on a {whole.subtask_type}, of whose steps it may hold for one: "
                "set it on that step"
            )
    return {name: whole.options[name] for name in _INHERITED if name in whole.options}
