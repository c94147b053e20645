"""What is said of values that do not fit: pydantic's words, with our pointers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mainstay.errors import FieldError, Invalid, Malformed, TooLarge, UnsupportedType
from mainstay.http.bodies import is_json, pointer_to

__all__ = ["is_misfit", "misfit", "no_json", "no_key", "other_type"]

_MOST_NAMED = 5


def is_misfit(error: BaseException | None) -> bool:
    """Does *error* say that the request does not fit, so that another one may?"""
    return isinstance(error, Invalid | Malformed | TooLarge | UnsupportedType)


def misfit(errors: Sequence[Mapping[str, Any]]) -> Invalid:
    """Return what to raise for values of a request that do not fit.

    Args:
        errors: As pydantic has them; ``loc`` begins with ``body``, ``path``, ``query`` or
            ``header``.
    """
    fields = [_field(one) for one in errors]
    names = ", ".join(field.pointer or "the body" for field in fields[:_MOST_NAMED])
    more = f" and {len(fields) - _MOST_NAMED} more" if len(fields) > _MOST_NAMED else ""
    return Invalid(f"the request does not fit: {names}{more}", errors=fields)


def other_type(content_type: str) -> UnsupportedType | None:
    """Return what to raise for a body that was to be JSON; ``None`` where it says that it is."""
    if is_json(content_type):
        return None
    sent = f"of type {content_type!r}" if content_type else "without a Content-Type"
    return UnsupportedType(f"the body was sent {sent}: send it as application/json")


def no_json() -> Malformed:
    """Return what to raise for a body that Python cannot even decode."""
    return Malformed("the body is not JSON in UTF-8: send what its Content-Type says")


def no_key() -> Malformed:
    """Return what to raise where a request must carry an `Idempotency-Key`, and does not."""
    return Malformed("this needs an Idempotency-Key header: send a new random one")


def _field(error: Mapping[str, Any]) -> FieldError:
    """Point at the value: into the body, or at a parameter by its name."""
    location, *path = error["loc"]
    message: str = error["msg"]
    if location == "body":
        return FieldError(pointer_to(tuple(path)), message)
    return FieldError(pointer_to(tuple(path)), f"{location} parameter: {message}")
