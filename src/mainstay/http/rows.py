"""A page of rows, as it is asked for and as it is answered; how it is cut, `pages.py` says."""

# No postponed annotations here: older FastAPIs do not find out what they mean on a dataclass.
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from mainstay.http import pages

__all__ = ["Page", "Rows"]

T = TypeVar("T")
Row = TypeVar("Row")


class Rows(BaseModel, Generic[T]):
    """A page of rows, as it is answered; ``total`` is there only where it was asked for."""

    items: list[T]
    next_cursor: str | None = None
    total: int | None = None

    @model_serializer(mode="wrap")
    def _without_total(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        if self.total is None:
            fields.pop("total", None)
        return fields


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows are asked for, in the query."""

    limit: Annotated[
        int, Field(ge=1, le=pages.MOST_LIMIT, description="The most rows of one page.")
    ] = pages.DEFAULT_LIMIT
    cursor: Annotated[
        str | None, Field(max_length=1024, description="The next_cursor of the page before.")
    ] = None
    offset: Annotated[
        int, Field(ge=0, le=pages.MOST_OFFSET, description="Rows to leave out first; for people.")
    ] = 0
    count: Annotated[bool, Field(description="Say how many rows there are in all.")] = False

    @property
    def position(self) -> tuple[Any, ...] | None:
        """The sort key of the last row of the page before; ``None`` on the first page.

        Raises:
            Invalid: The cursor is none of ours.
        """
        return None if self.cursor is None else pages.decode_cursor(self.cursor)

    def rows(
        self,
        found: Sequence[Row],
        position: Callable[[Row], Sequence[object]],
        *,
        show: Callable[[Row], T],
        total: int | None = None,
    ) -> Rows[T]:
        """Make the answer of rows that were asked for with ``LIMIT limit + 1``.

        Args:
            position: Returns a row's sort key.
            show: Makes of a row what the client sees; a table model never leaves the service.
            total: Rows in all, where :attr:`count` asks for it.
        """
        items, next_cursor = pages.cut(found, self.limit, position)
        return Rows[T](items=[show(row) for row in items], next_cursor=next_cursor, total=total)
