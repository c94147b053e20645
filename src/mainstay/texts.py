"""What can every store and every wire carry of a text, and of what an error says?"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["causes", "storable", "text_of", "tls_reason"]


def storable(text: str) -> str:
    """Return *text* with halves of surrogate pairs written out: Python's texts may hold them, a
    file's name for one, and UTF-8 cannot.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def causes(error: BaseException | None, *, with_suppressed: bool = True) -> Iterator[BaseException]:
    """Go through *error* and what caused it.

    Args:
        with_suppressed: Also through what a ``raise … from None`` hides.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        is_shown = with_suppressed or not error.__suppress_context__
        error = error.__cause__ or (error.__context__ if is_shown else None)


def tls_reason(error: BaseException) -> str:
    """Return why there is no TLS with a server, to follow on "cannot be reached", where *error* or
    what caused it is about that; else nothing.
    """
    for each in causes(error):
        if type(each).__module__ != "ssl":
            continue
        if refused := getattr(each, "verify_message", ""):
            return f": its certificate is refused: {storable(refused).rstrip('.')}"
        if reason := getattr(each, "reason", ""):
            return f": TLS with it fails: {storable(reason)}"
    return ""


def text_of(error: BaseException) -> str:
    """Return what *error* says, storable; never raises, whatever its own code does."""
    try:
        return storable(str(error))
    except Exception:  # noqa: BLE001 - an author's own __str__
        return f"a {storable(type(error).__name__)} that cannot say what it is"
