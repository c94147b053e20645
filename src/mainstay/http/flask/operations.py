"""Views that say what they take and what they answer, as their annotations have it.

::

    @orders.post("/orders")
    @operation(status=201)
    def create(order: OrderIn, w: Annotated[Work, work]) -> Order: ...

=========================================  ====================================================
a parameter                                comes from
=========================================  ====================================================
named in the rule                          the path
of a plain type, or a list of them         the query
of a data class                            the query: each of its fields
``Annotated[str, Header("If-Match")]``     that header
``Annotated[T, function]``                 the function, called without arguments
of any other type, such as a model         the body, which is JSON
=========================================  ====================================================

What does not fit is a 422 that names each value. The answer is what the return annotation says,
as JSON; a view may also return a response of its own, or ``(answer, status)`` and the like, as
Flask has it. A view without the decorator is a plain view, and no part of the document.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import reduce, wraps
from operator import or_
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    overload,
)
from uuid import UUID

from flask import Response, current_app, request
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mainstay.http import misfits

__all__ = ["OPERATION", "Header", "Operation", "Values", "operation"]

OPERATION = "__mainstay_operation__"
"""The attribute of a view that has its :class:`Operation`."""

View = Callable[..., Any]
Bound = Callable[..., Response]
Location = Literal["path", "query", "header"]

_PLAIN = (str, bytes, int, float, bool, Decimal, date, datetime, time, timedelta, UUID, enum.Enum)
_LISTS = (list, tuple, set, frozenset)
_NONE = inspect.Parameter.empty
_BODILESS = frozenset({204, 304})


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """Says that a parameter comes from the header called *name*."""

    name: str


@overload
def operation(view: View, /) -> Bound: ...
@overload
def operation(
    *,
    status: int = ...,
    summary: str = ...,
    tags: Sequence[str] = ...,
    responses: Mapping[int, Any] | None = ...,
    deprecated: bool = ...,
) -> Callable[[View], Bound]: ...
def operation(
    view: Any = None,
    /,
    *,
    status: int = 200,
    summary: str = "",
    tags: Sequence[str] = (),
    responses: Mapping[int, Any] | None = None,
    deprecated: bool = False,
) -> Any:
    """Fill in the decorated view's parameters from the request, and write its answer as JSON.

    Args:
        status: Of an answer that names none.
        summary: For the documentation; the view's name in words by default, and its docstring
            says the rest.
        tags: For the documentation.
        responses: Other answers that it may give: their models by status, ``None`` for no body.
            The problems need not be named.
        deprecated: For the documentation.

    Raises:
        TypeError: A parameter cannot be filled in; the message names it.
    """

    def decorate(view: View) -> Bound:
        told = Operation(
            view,
            status=status,
            summary=summary,
            tags=tuple(tags),
            responses=dict(responses or {}),
            is_deprecated=deprecated,
        )

        @wraps(view)
        def bound(**from_path: Any) -> Response:
            return told.answer(view(**told.arguments(from_path)))

        setattr(bound, OPERATION, told)
        return bound

    return decorate if view is None else decorate(view)


class Operation:
    """What a view takes and answers."""

    def __init__(
        self,
        view: Callable[..., Any],
        *,
        status: int,
        summary: str,
        tags: tuple[str, ...],
        responses: dict[int, Any],
        is_deprecated: bool,
    ) -> None:
        self.view = view
        self.status = status
        self.summary = summary or view.__name__.replace("_", " ").capitalize()
        self.description = inspect.getdoc(view) or ""
        self.tags = tags
        self.is_deprecated = is_deprecated
        self.providers: dict[str, Callable[[], Any]] = {}
        self.body: Body | None = None
        self._named: dict[str, tuple[Any, object]] = {}
        self._headers: dict[str, tuple[Any, object]] = {}
        self._groups: dict[str, type[Any]] = {}
        self._plans: dict[frozenset[str], tuple[Values, ...]] = {}
        hints = typing.get_type_hints(view, include_extras=True)
        answered = _answered(hints.pop("return", Any))
        self._answer = TypeAdapter(Any if _is_response(answered) else answered)
        self.statuses = (status, *responses)
        self.answers = {
            code: self._answer if code == status else TypeAdapter(hint)
            for code, hint in {**responses, status: answered}.items()
            if code not in _BODILESS and not _is_response(hint)
        }
        """Checks and writes what it answers, by status; nothing where there is no body."""
        for parameter in inspect.signature(view).parameters.values():
            self._read(parameter, hints)

    def values(self, in_path: frozenset[str]) -> tuple[Values, ...]:
        """Return what is taken from path, query and headers, under a rule that names *in_path*."""
        plan = self._plans.get(in_path)
        if plan is None:
            plan = self._plans[in_path] = self._plan(in_path)
        return plan

    def arguments(self, from_path: Mapping[str, Any]) -> dict[str, Any]:
        """Return the view's arguments.

        Raises:
            Invalid: Values do not fit; names each of them.
            Malformed, UnsupportedType: The body is no JSON.
        """
        filled = {name: provide() for name, provide in self.providers.items()}
        errors: list[Mapping[str, Any]] = []
        for values in self.values(frozenset(from_path)):
            errors += values.fill(filled, from_path)
        if self.body is not None:
            errors += self.body.fill(filled)
        if errors:
            raise misfits.misfit(errors)
        return filled

    def answer(self, returned: Any) -> Response:
        """Make the response of what the view returned."""
        if isinstance(returned, Response):
            return returned
        status, headers = self.status, None
        if type(returned) is tuple:
            returned, *others = returned
            for other in others:
                if isinstance(other, int):
                    status = other
                else:
                    headers = other
        if isinstance(returned, Response):
            return current_app.make_response((returned, status, headers or {}))
        body = b"" if status in _BODILESS else self._written(returned, status)
        response = current_app.response_class(body, status, mimetype="application/json")
        if status in _BODILESS:
            del response.content_type
        if headers:
            response.headers.update(headers)
        return response

    def _written(self, value: Any, status: int) -> bytes:
        # A return annotation is a promise: what is not in it does not leave.
        promised = self.answers.get(status, self._answer)
        kept = promised.validate_python(value, from_attributes=True)
        return promised.dump_json(kept, by_alias=True)

    def _read(self, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
        name, default = parameter.name, parameter.default
        place = f"the parameter {name!r} of {self.view.__qualname__}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{place} stands for any number: name each of them")
        hint = hints.get(name, str)
        plain, marks = _unwrapped(hint)
        provider = next((mark for mark in marks if inspect.isfunction(mark)), None)
        header = next((mark for mark in marks if isinstance(mark, Header)), None)
        if provider is not None:
            self.providers[name] = provider
        elif header is not None:
            self._headers[name] = (hint, default)
        elif dataclasses.is_dataclass(plain):
            self._groups[name] = typing.cast(type[Any], plain)
        elif _is_plain(plain):
            self._named[name] = (hint, default)
        elif self.body is not None:
            raise TypeError(
                f"{place} is a second body besides {self.body.name!r}: a view takes one"
            )
        else:
            self.body = Body(name, TypeAdapter(hint), default)

    def _plan(self, in_path: frozenset[str]) -> tuple[Values, ...]:
        path = {name: one for name, one in self._named.items() if name in in_path}
        query = {name: one for name, one in self._named.items() if name not in in_path}
        plan = (
            Values.of("path", path),
            Values.of("query", query),
            *(Values.of_group(name, kind) for name, kind in self._groups.items()),
            Values.of("header", self._headers),
        )
        return tuple(values for values in plan if values.hints)


@dataclasses.dataclass(frozen=True, slots=True)
class Body:
    """What is made of the request's body.

    Args:
        name: The parameter that it fills.
        adapter: Checks it.
        default: What stands for a body that does not come.
    """

    name: str
    adapter: TypeAdapter[Any]
    default: object

    @property
    def is_required(self) -> bool:
        return self.default is _NONE

    def fill(self, filled: dict[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Put the body into *filled*, or return what is wrong with it.

        Raises:
            Malformed, UnsupportedType: It is no JSON.
        """
        sent = request.get_data()
        if not sent:
            if self.is_required:
                return [{"loc": ("body",), "msg": "Field required"}]
            filled[self.name] = self.default
            return ()
        if (refusal := misfits.other_type(request.content_type or "")) is not None:
            raise refusal
        try:
            value = json.loads(sent)
        except ValueError:
            raise misfits.no_json() from None
        try:
            filled[self.name] = self.adapter.validate_python(value)
        except ValidationError as error:
            return [_located("body", one, {}) for one in _errors(error)]
        return ()


@dataclasses.dataclass(frozen=True, slots=True)
class Values:
    """Values of one place that are checked together.

    Args:
        location: Where they are.
        hints: Their annotations, by name.
        defaults: Of those that may be missing.
        adapter: Checks them.
        group: The one argument that they make, where they are not one each.
    """

    location: Location
    hints: Mapping[str, Any]
    defaults: Mapping[str, object]
    adapter: TypeAdapter[Any]
    group: str = ""
    names: Mapping[str, str] = dataclasses.field(init=False)
    """What they are called outside."""
    lists: frozenset[str] = dataclasses.field(init=False)
    """Those that may come several times."""

    def __post_init__(self) -> None:
        lists = {name for name, hint in self.hints.items() if _is_list(hint)}
        names = {name: _outside(name, hint) for name, hint in self.hints.items()}
        object.__setattr__(self, "lists", frozenset(lists))
        object.__setattr__(self, "names", names)

    @classmethod
    def of(cls, location: Location, named: Mapping[str, tuple[Any, object]]) -> Values:
        """Return values that are an argument each."""
        hints = {name: hint for name, (hint, _) in named.items()}
        defaults = {name: default for name, (_, default) in named.items() if default is not _NONE}
        keys = {
            name: NotRequired[hint] if name in defaults else hint for name, hint in hints.items()
        }
        # A dictionary, because a model has names that no parameter could have then.
        kind = TypedDict(location.capitalize(), keys)  # type: ignore[misc]  # nobody wrote it down
        return cls(location, hints, defaults, TypeAdapter(kind))

    @classmethod
    def of_group(cls, argument: str, kind: type[Any]) -> Values:
        """Return the fields of a data class, from the query."""
        every = typing.get_type_hints(kind, include_extras=True)
        fields = [field for field in dataclasses.fields(kind) if field.init]
        missing = dataclasses.MISSING
        return cls(
            "query",
            {field.name: every[field.name] for field in fields},
            {field.name: field.default for field in fields if field.default is not missing},
            TypeAdapter(kind),
            argument,
        )

    def fill(
        self, filled: dict[str, Any], from_path: Mapping[str, Any]
    ) -> Sequence[Mapping[str, Any]]:
        """Put the values into *filled*, or return what is wrong with them."""
        try:
            values = self.adapter.validate_python(self._sent(from_path))
        except ValidationError as error:
            return [_located(self.location, one, self.names) for one in _errors(error)]
        if self.group:
            filled[self.group] = values
        else:
            filled.update(self.defaults)
            filled.update(values)
        return ()

    def _sent(self, from_path: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.location == "path":
            return {name: from_path[name] for name in self.hints}
        if self.location == "header":
            headers = request.headers
            return {name: headers[said] for name, said in self.names.items() if said in headers}
        args = request.args
        return {
            name: args.getlist(name) if name in self.lists else args.getlist(name)[-1]
            for name in self.hints
            if name in args
        }


def _answered(hint: Any) -> Any:
    """Return what a view answers: of ``tuple[Order, int]``, as Flask understands it, the order,
    and so of ``Order | tuple[Queued, int]``: `responses` has what comes with other statuses.
    """
    if get_origin(hint) in (Union, types.UnionType):
        alone = [one for one in get_args(hint) if get_origin(one) is not tuple]
        return reduce(or_, alone) if alone else hint
    if get_origin(hint) is tuple:
        first, *others = get_args(hint)
        if others and others[0] is not Ellipsis:
            return first
    return hint


def _is_response(hint: Any) -> bool:
    """Does the view make its response by itself?"""
    plain = _unwrapped(hint)[0]
    return isinstance(plain, type) and issubclass(plain, Response)


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type without what `Annotated` says of it, and that."""
    if get_origin(hint) is Annotated:
        plain, *marks = get_args(hint)
        return plain, tuple(marks)
    return hint, ()


def _is_plain(hint: Any) -> bool:
    hint = _unwrapped(hint)[0]
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return all(one is type(None) or _is_plain(one) for one in get_args(hint))
    if origin is Literal:
        return True
    if origin in _LISTS:
        return all(one is Ellipsis or _is_plain(one) for one in get_args(hint))
    return isinstance(hint, type) and issubclass(hint, _PLAIN)


def _is_list(hint: Any) -> bool:
    return get_origin(_unwrapped(hint)[0]) in _LISTS


def _outside(name: str, hint: Any) -> str:
    for mark in _unwrapped(hint)[1]:
        if isinstance(mark, Header):
            return mark.name
    return name


def _errors(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_context=False, include_input=False))


def _located(location: str, error: Any, names: Mapping[str, str]) -> Mapping[str, Any]:
    path = [names.get(step, step) for step in error["loc"][:1]]
    return {"loc": (location, *path, *error["loc"][1:]), "msg": error["msg"]}
