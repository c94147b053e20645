"""What can every store and every wire carry of a text, and of what an error says?"""

from __future__ import annotations

__all__ = ["storable", "text_of"]


def storable(text: str) -> str:
    """Return *text* with halves of surrogate pairs written out: Python's texts may hold them, a
    file's name for one, and UTF-8 cannot.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def text_of(error: BaseException) -> str:
    """Return what *error* says, storable; never raises, whatever its own code does."""
    try:
        return storable(str(error))
    except Exception:  # noqa: BLE001 - an author's own __str__
        return f"a {storable(type(error).__name__)} that cannot say what it is"
