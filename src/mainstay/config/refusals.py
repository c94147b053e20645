"""Which settings, each sound by itself, must not be together, or not outside development?

Each rule is a function from settings to a problem. The strict ones hold outside of ``dev`` and
``test``; the others always.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pydantic import SecretStr

from mainstay.config import urls
from mainstay.config.messages import Problem

if TYPE_CHECKING:
    from mainstay.config.settings import Settings

__all__ = ["refusals"]

_JWT_SOURCES = ("jwt_secret_key", "jwt_private_key", "jwt_jwks_url")
_BROKERS = ("rabbitmq_url", "celery_broker_url")
_SERVERS = ("database_url", "async_database_url", "redis_url", "celery_result_backend")
_DEFAULT_PASSWORDS = frozenset(
    {"admin", "changeme", "guest", "password", "postgres", "rabbitmq", "root", "secret"}
)
_PLACEHOLDERS = re.compile(
    r"change[-_ ]?(me|it|this)|replace[-_ ]?me|your[-_ ]?secret|insert[-_ ]?here"
)
_WORDS = frozenset({"default", "dev", "development", "password", "secret", "test", "todo", "xxx"})
_LONGEST_STOP_SECONDS = 3600.0


def refusals(settings: Settings, *, strict: bool) -> list[Problem]:
    """Return what these settings are refused for.

    Args:
        settings: Values that fit, each by itself.
        strict: The rules of production too; without it only those that hold everywhere.
    """
    rules = (*_ALWAYS, *_STRICT) if strict else _ALWAYS
    return [problem for rule in rules for problem in rule(settings)]


def _one_source_of_keys(settings: Settings) -> Iterator[Problem]:
    given = [name for name in _JWT_SOURCES if getattr(settings, name) is not None]
    if len(given) > 1:
        yield _problem(
            settings, given, "only one of them may be set: two ways to verify a token are a hole"
        )


def _stops_in_time(settings: Settings) -> Iterator[Problem]:
    total = settings.drain_delay_seconds + settings.grace_seconds
    if total > _LONGEST_STOP_SECONDS:
        yield _problem(
            settings,
            ("drain_delay_seconds", "grace_seconds"),
            f"together {total:g} seconds; a stop may take {_LONGEST_STOP_SECONDS:g} at most",
        )


def _no_debug(settings: Settings) -> Iterator[Problem]:
    if settings.debug:
        yield _strict(settings, ("debug",), "it shows internals to callers: set it to false")


def _no_wildcard_origin(settings: Settings) -> Iterator[Problem]:
    if any("*" in origin for origin in settings.cors_allow_origins):
        yield _strict(
            settings,
            ("cors_allow_origins",),
            "'*' lets every site use a visitor's login: name the origins",
        )


def _keeps_tasks(settings: Settings) -> Iterator[Problem]:
    if not settings.celery_task_acks_late:
        yield _strict(
            settings,
            ("celery_task_acks_late",),
            "0 loses the tasks of a worker that dies: set it to 1 or leave it out",
        )
    if settings.celery_task_always_eager:
        yield _strict(
            settings,
            ("celery_task_always_eager",),
            "1 runs tasks inside the request: set it to 0 or leave it out",
        )


def _keeps_results(settings: Settings) -> Iterator[Problem]:
    if (settings.celery_result_backend or "").startswith("rpc://"):
        yield _strict(
            settings,
            ("celery_result_backend",),
            "rpc:// forgets results with the connection: name a database or Redis",
        )


def _own_credentials(settings: Settings) -> Iterator[Problem]:
    for name in (*_BROKERS, *_SERVERS):
        if settings.origin(name) == "default":
            continue  # derived from a URL that is looked at itself
        for url in urls.several(getattr(settings, name) or ""):
            found = urls.credentials(url)
            if found is None and name in _BROKERS and url.startswith("amqp"):
                found = ("guest", "guest")  # what a broker is offered when nothing is named
            if found is None or found[1].lower() not in _DEFAULT_PASSWORDS:
                continue
            if not urls.is_loopback(url):
                yield _strict(
                    settings,
                    (name,),
                    "user and password are the server's default ones: give it a password of its "
                    "own",
                )
                break


def _own_secrets(settings: Settings) -> Iterator[Problem]:
    for name in ("secret_key", "jwt_secret_key"):
        value: SecretStr | None = getattr(settings, name)
        if value is not None and _is_placeholder(value.get_secret_value()):
            yield _strict(
                settings,
                (name,),
                "it is a placeholder that anybody can guess: make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe(48))'",
            )


_ALWAYS: tuple[Callable[[Settings], Iterator[Problem]], ...] = (
    _one_source_of_keys,
    _stops_in_time,
)
_STRICT: tuple[Callable[[Settings], Iterator[Problem]], ...] = (
    _no_debug,
    _no_wildcard_origin,
    _keeps_tasks,
    _keeps_results,
    _own_credentials,
    _own_secrets,
)


def _is_placeholder(secret: str) -> bool:
    text = secret.strip().lower()
    return text in _WORDS or _PLACEHOLDERS.search(text) is not None


def _strict(settings: Settings, names: tuple[str, ...], message: str) -> Problem:
    return _problem(
        settings,
        names,
        f"{message} (refused with env={settings.env}; allowed in dev and test)",
    )


def _problem(settings: Settings, names: tuple[str, ...] | list[str], message: str) -> Problem:
    places = ", ".join(settings.place(name) for name in names)
    return Problem(" and ".join(names), f"{message}; read from {places}", frozenset(names))
