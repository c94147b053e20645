"""What does a value that does not fit look like to the person who wrote it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mainstay.config import fields
from mainstay.config.messages import Problem, did_you_mean
from mainstay.config.sources import Found

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from mainstay.config.settings import Settings

__all__ = ["explain", "missing"]

_LONGEST_VALUE = 80
_BROUGHT_BY_DEV = frozenset(
    {"async_database_url", "celery_broker_url", "celery_result_backend", "database_url"}
    | {"jwt_secret_key", "rabbitmq_url", "redis_url", "secret_key"}
)


def explain(
    settings: type[Settings], error: ValidationError, origins: Mapping[str, Found]
) -> list[Problem]:
    """Return one problem for each setting that *error* names."""
    problems: dict[str, Problem] = {}
    for detail in error.errors(include_url=False, include_input=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        # A default that is computed from a value that does not fit is not to blame.
        if name not in problems and detail["type"] != "default_factory_not_called":
            problems[name] = _problem(settings, name, detail, origins.get(name))
    return list(problems.values())


def missing(settings: type[Settings], name: str) -> Problem:
    """Return the problem of a setting that is needed and that nothing names."""
    field = settings.model_fields[name]
    ways = [" or ".join(settings.variables(name))]
    ways += [f"the parts {group.text}" for group in fields.groups(field)]
    if name in _BROUGHT_BY_DEV:
        ways.append("start with `mainstay dev`, which brings its own")
    accepted = fields.accepts(field)
    detail = "" if accepted == "text" else f" (accepted is {accepted})"
    return Problem(
        name,
        f"it is needed here and nothing names it{detail}: set {', or '.join(ways)}",
        frozenset({name}),
    )


def _problem(
    settings: type[Settings], name: str, detail: ErrorDetails, found: Found | None
) -> Problem:
    field = settings.model_fields.get(name)
    if not name:  # a rule of the service's own, over several of its settings
        return Problem(settings.__name__, _reason(detail).removeprefix(": ") or "not accepted")
    if field is None:
        known = list(settings.model_fields)
        message = f"there is no such setting{did_you_mean(name, known)}"
        return Problem(name, message, frozenset({name}))
    if detail["type"] == "missing":
        return missing(settings, name)
    value = "" if found is None else _quoted(name, field, found.value)
    place = settings.variables(name)[0] if found is None else found.place
    reason = _reason(detail)
    if found is not None and fields.may_hold_secret(name, field):
        for _, text in fields.secrets_of(name, found.value):
            reason = reason.replace(text, fields.MASK) if text else reason
    return Problem(
        name,
        f"{value}{place}: not accepted{reason}; accepted is {fields.accepts(field)}",
        frozenset({name}),
    )


def _quoted(name: str, field: Any, value: object) -> str:
    """The value itself, where it can be no secret: a URL that cannot be read may hold one."""
    text = str(value)
    takes_url = "url" in name or "://" in fields.accepts(field)
    if fields.may_hold_secret(name, field) or takes_url or "://" in text:
        return ""
    if len(text) > _LONGEST_VALUE:
        text = text[:_LONGEST_VALUE] + "…"
    return f"{text!r} from "


def _reason(detail: ErrorDetails) -> str:
    raised = detail.get("ctx", {}).get("error")
    if isinstance(raised, ValueError):
        return f": {raised}"
    return ""
