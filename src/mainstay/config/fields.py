"""What a setting says of itself: where it is read, what it accepts, whether it is a secret.

All of it is declared beside the field, as its annotation's metadata, and read from there by the
loader, by messages, by ``mainstay config`` and by the example files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as records
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict

from mainstay.config import urls

__all__ = [
    "PREFIX",
    "Accepts",
    "Group",
    "Read",
    "accepts",
    "default_text",
    "groups",
    "has_literal_default",
    "inherit",
    "is_flag",
    "is_named_secret",
    "is_secret",
    "is_sequence",
    "is_structure",
    "masked",
    "may_hold_secret",
    "names",
    "secrets_of",
    "shown",
]

PREFIX = "<PREFIX>"
MASK = "***"
_SEVERAL = (list, tuple, set, frozenset)
_SECRET_NAME = re.compile(
    r"(^|_)(secret|password|passwd|passphrase|pass|token|credential|authorization|dsn)s?(_|$)"
    r"|(^|_)keys?$|^(set_)?cookies?$"
)
_WORD_ENDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-.\s]")


@dataclass(frozen=True, slots=True)
class Group:
    """The parts of a URL, each a variable of its own; a part left out takes the default here.

    Args:
        scheme: What the URL begins with.
        host, port, user, password, path: The variables' names. One that ends in ``_PASS`` or
            ``_PASSWORD`` is understood with either ending.
        default_port, default_user, default_password: The server's usual ones.
    """

    scheme: str
    host: str
    port: str
    user: str
    password: str
    default_port: int
    path: str = ""
    default_user: str = ""
    default_password: str = ""

    @property
    def passwords(self) -> tuple[str, ...]:
        """The password's variable, and the same with the other usual ending."""
        if self.password.endswith("_PASS"):
            return self.password, f"{self.password}WORD"
        if self.password.endswith("_PASSWORD"):
            return self.password, self.password.removesuffix("WORD")
        return (self.password,)

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The variables of each part, in the order of the arguments."""
        every = ((self.host,), (self.port,), (self.user,), self.passwords, (self.path,))
        return tuple(names for names in every if names[0])

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(variable for names in self.parts for variable in names)

    @property
    def text(self) -> str:
        """The variables in words: ``DATABASE_HOST, …, DATABASE_PASS or DATABASE_PASSWORD``."""
        return ", ".join(" or ".join(names) for names in self.parts)

    @property
    def defaults(self) -> tuple[tuple[str, str], ...]:
        """Each variable with what it is when left out; a password is never one of them."""
        parts = (
            (self.host, "localhost"),
            (self.port, str(self.default_port)),
            (self.user, self.default_user),
            (self.password, ""),
            (self.path, self.default_user),
        )
        return tuple((variable, value) for variable, value in parts if variable)


@dataclass(frozen=True, slots=True, init=False)
class Read:
    """Where a setting is read: the variables in their order, ``<PREFIX>`` standing for the prefix.

    Args:
        names: The variables; the first that is found wins.
        groups: The variables' groups that may name a server by its parts.
        default: What a default that is computed comes to, in words.
    """

    names: tuple[str, ...]
    groups: tuple[Group, ...]
    default: str

    def __init__(self, *names: str, groups: tuple[Group, ...] = (), default: str = "") -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "default", default)


@dataclass(frozen=True, slots=True)
class Accepts:
    """What a setting accepts, in words, where its type does not say it."""

    text: str


def names(name: str, field: FieldInfo, prefix: str) -> tuple[str, ...]:
    """Return the environment variables of one setting, in the order in which they are read."""
    read = _read(field)
    if read is None or not read.names:
        return (f"{prefix}{name.upper()}",)
    # With the prefix SERVICE_, two of the names of `service_name` are one.
    return tuple(dict.fromkeys(variable.replace(PREFIX, prefix) for variable in read.names))


def groups(field: FieldInfo) -> tuple[Group, ...]:
    """Return the groups of variables that may name the setting's server by its parts."""
    read = _read(field)
    return read.groups if read else ()


def accepts(field: FieldInfo) -> str:
    """Say what a setting accepts."""
    for found in _metadata(field):
        if isinstance(found, Accepts):
            return found.text
    return _of_type(field)


def default_text(name: str, field: FieldInfo) -> str:
    """Say what a setting is when nothing names it; nothing for ``None`` and for a needed one."""
    read = _read(field)
    if read is not None and read.default:
        return read.default
    if field.is_required() or field.default_factory is not None or field.default is None:
        return ""
    return shown(name, field, field.default)


def has_literal_default(field: FieldInfo) -> bool:
    """Is the default a value that one could type, and not words about one that is computed?"""
    read = _read(field)
    return not (read and read.default) and field.default_factory is None


def is_secret(name: str, field: FieldInfo) -> bool:
    """Must no part of the value be shown? By its type, or as a text by what its name says."""
    kinds = list(_types(field))
    if any(hasattr(get_origin(kind) or kind, "get_secret_value") for kind in kinds):
        return True
    is_text = str in kinds or is_sequence(field) or is_structure(field)
    return is_text and is_named_secret(name)


def is_named_secret(name: str) -> bool:
    """Does its name say that a text is a secret?"""
    # Names of others come in every form: accessToken, X-Api-Key, API_KEY.
    return _SECRET_NAME.search(_WORD_ENDS.sub("_", name).lower()) is not None


def inherit(field: FieldInfo, base: FieldInfo) -> None:
    """Give *field* what *base* says of itself and *field* does not.

    A service that only gives a setting another default (``service_name: str = "orders"``) has it
    read where it was read before.
    """
    for marker in (Read, Accepts):
        found = next((one for one in _metadata(base) if isinstance(one, marker)), None)
        if found is not None and not any(isinstance(one, marker) for one in _metadata(field)):
            # What is computed is no longer the default here.
            field.metadata.append(
                Read(*found.names, groups=found.groups) if isinstance(found, Read) else found
            )
    field.description = field.description or base.description


def is_flag(field: FieldInfo) -> bool:
    """Is the setting a yes or a no?"""
    return bool in _types(field)


def is_sequence(field: FieldInfo) -> bool:
    """Does the setting hold several values, which one variable gives with commas between?"""
    return any((get_origin(kind) or kind) in _SEVERAL for kind in _types(field))


def is_structure(field: FieldInfo) -> bool:
    """Does the setting hold a mapping or a record, which a variable gives as JSON?"""
    return any(
        (get_origin(kind) or kind) in (dict, Mapping) or _is_record(kind) for kind in _types(field)
    )


def may_hold_secret(name: str, field: FieldInfo) -> bool:
    """May a part of the value be a secret, however deep inside of it? A mapping may hold any."""
    return is_secret(name, field) or _may_hold(field.annotation, name, set())


def masked(name: str, field: FieldInfo, value: Any) -> Any:
    """Return a value as JSON may hold it, secrets and passwords masked, also those inside of it:
    by their types, or as texts by what their own names say.
    """
    return MASK if value is not None and is_secret(name, field) else _masked(name, value)


def secrets_of(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield each text in a value that its type makes a secret, or that may be one, with its name.

    The name is empty for what is a secret by its type.
    """
    if hasattr(value, "get_secret_value"):
        for _, text in secrets_of("", value.get_secret_value()):
            yield "", text
    elif isinstance(value, bytes):
        yield name, value.decode(errors="replace")
    elif isinstance(value, str):
        yield name, value
    else:
        for inner, part in _parts(name, value):
            yield from secrets_of(inner, part)


def shown(name: str, field: FieldInfo, value: Any) -> str:
    """Write a value as one would type it, secrets and passwords masked."""
    match masked(name, field, value):
        case None:
            return ""
        case bool() as flag:
            return "true" if flag else "false"
        case float() as number if number.is_integer():
            return str(int(number))
        case list() as several if not any(isinstance(one, dict | list) for one in several):
            return ",".join(str(one) for one in several)
        case dict() | list() as structure:
            return json.dumps(structure, ensure_ascii=False)
        case other:
            return str(other)


def _masked(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if hasattr(value, "get_secret_value") or is_named_secret(name):
        return MASK
    if _is_named(value):
        return {inner: _masked(inner, part) for inner, part in _parts(name, value)}
    if isinstance(value, _SEVERAL):
        return [_masked(inner, part) for inner, part in _parts(name, value)]
    return urls.mask(str(value))


def _is_named(value: Any) -> bool:
    is_record = is_dataclass(value) and not isinstance(value, type)
    return is_record or isinstance(value, BaseModel | Mapping) or _is_named_tuple(value)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value is made of, with the names that it has there."""
    match value:
        case BaseModel():
            yield from value
        case Mapping():
            yield from ((str(key), part) for key, part in value.items())
        case tuple() if _is_named_tuple(value):
            yield from zip(value._fields, value, strict=True)  # type: ignore[attr-defined]
        case list() | tuple() | set() | frozenset():
            yield from ((name, part) for part in value)
        case _ if _is_named(value):
            yield from ((each.name, getattr(value, each.name)) for each in records(value))


def _is_record(kind: Any) -> bool:
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return is_model or is_dataclass(kind) or is_typeddict(kind)


def _may_hold(kind: Any, name: str, seen: set[Any]) -> bool:
    origin = get_origin(kind)
    if origin is Annotated:
        return _may_hold(kind.__origin__, name, seen)
    made_of = origin or kind
    if hasattr(made_of, "get_secret_value"):
        return True
    if made_of in (dict, Mapping):
        inner = get_args(kind)[1:]
        return not inner or _may_hold(inner[0], "secret", seen)  # its key may call it so
    if made_of is Any:
        return True
    if made_of in (str, bytes):
        return is_named_secret(name)
    if isinstance(made_of, type) and made_of not in seen:
        seen.add(made_of)
        hints = get_type_hints(made_of) if _is_record(made_of) else {}
        if any(_may_hold(part, each, seen) for each, part in hints.items()):
            return True
    return any(_may_hold(part, name, seen) for part in get_args(kind))


def _read(field: FieldInfo) -> Read | None:
    return next((found for found in _metadata(field) if isinstance(found, Read)), None)


def _metadata(field: FieldInfo) -> Iterator[object]:
    yield from field.metadata
    yield from _inner_metadata(field.annotation)


def _inner_metadata(annotation: Any) -> Iterator[object]:
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
        yield from _inner_metadata(annotation.__origin__)
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _inner_metadata(one)


def _types(field: FieldInfo) -> Iterator[Any]:
    """The alternatives of a setting's type, unwrapped, without ``None``."""
    pending: list[Any] = [field.annotation]
    while pending:
        kind = pending.pop(0)
        if get_origin(kind) is Annotated:
            pending.append(kind.__origin__)
        elif get_origin(kind) in (Union, UnionType):
            pending.extend(get_args(kind))
        elif kind is not type(None):
            yield kind


def _of_type(field: FieldInfo) -> str:
    kinds = list(_types(field))
    limits = _limits(field)
    if any(get_origin(kind) is Literal for kind in kinds):
        choices = [str(one) for kind in kinds for one in get_args(kind)]
        return f"one of {', '.join(choices)}"
    if bool in kinds:
        return "1/0, true/false, yes/no or on/off"
    if int in kinds and float not in kinds:
        return f"a whole number{limits}"
    if float in kinds:
        return f"a number{limits}"
    if is_sequence(field):
        return "values separated by commas"
    if is_structure(field):
        return "a JSON object"
    return f"text{limits}"


def _limits(field: FieldInfo) -> str:
    low = high = ""
    for found in _metadata(field):
        for one in found.metadata if isinstance(found, FieldInfo) else [found]:
            match one:
                case Ge(ge=limit):
                    low = f"from {limit}"
                case Gt(gt=limit):
                    low = f"above {limit}"
                case Le(le=limit):
                    high = f"to {limit}" if low.startswith("from") else f"and at most {limit}"
                case Lt(lt=limit):
                    high = f"and below {limit}"
                case MinLen(min_length=limit):
                    low = f"of at least {limit} characters"
                case MaxLen(max_length=limit):
                    high = f"of at most {limit} characters"
                case _:
                    pass
    if low.startswith("from") and not high:
        high = "up"
    if high.startswith("and ") and not low:
        high = high.removeprefix("and ")
    return "".join(f" {part}" for part in (low, high) if part)
