"""Addresses of servers: understood in every usual spelling, brought to one, shown without password.

One database URL serves both worlds: :func:`sync_url` and :func:`async_url` name the driver of
each, and translate the few options that libpq and asyncpg call by different names.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

__all__ = [
    "Credentials",
    "async_url",
    "broker_url",
    "credentials",
    "http_url",
    "is_loopback",
    "join",
    "management_url",
    "mask",
    "redis_url",
    "result_backend",
    "several",
    "sync_url",
]

Credentials = tuple[str, str]  # user, password

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*\Z")
_BETWEEN = re.compile(r";(?=[A-Za-z][A-Za-z0-9+.\-]*://)")
_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|::1|.*\.localhost)\Z")
_PASSWORD = re.compile(r"(://[^:@/?#]*):.*@", re.DOTALL)
_SECRET_OPTION = re.compile(r"(?i)([?&][^=&#]*(?:password|passwd|secret|token|key)[^=&#]*=)[^&#]*")

_ENCODED = (
    "special characters in a password are written percent-encoded: / is %2F, # is %23, ? is %3F, "
    "@ is %40"
)
_SPELLINGS = {
    "amqp": "amqp",
    "amqps": "amqps",
    "memory": "memory",
    "pyamqp": "amqp",
    "redis": "redis",
    "rediss": "rediss",
    "rpc": "rpc",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}
# asyncpg takes its options under names of its own, and no others; what only tunes a connection
# is left out for it. https://magicstack.github.io/asyncpg/current/api/index.html#connection
_TO_ASYNC = {"sslmode": "ssl", "connect_timeout": "timeout"}
_SYNC_ONLY = frozenset(
    {"application_name", "channel_binding", "gssencmode", "keepalives", "keepalives_count"}
    | {"keepalives_idle", "keepalives_interval", "tcp_user_timeout"}
)
_BROKERS = frozenset({"amqp", "amqps", "memory", "redis", "rediss"})
_REDIS = frozenset({"redis", "rediss", "unix"})
# `rpc` is refused elsewhere, with its reason.
_RESULT_BACKENDS = frozenset({"redis", "rediss", "rpc"})
_TO_SYNC = {"ssl": "sslmode", "timeout": "connect_timeout"}
_ASYNC_ONLY = frozenset(
    {"command_timeout", "prepared_statement_cache_size", "statement_cache_size"}
    | {"prepared_statement_name_func"}
)


def sync_url(url: str) -> str:
    """Return *url* with the driver of sync sessions: psycopg for PostgreSQL, the standard SQLite.

    Raises:
        ValueError: It is no URL of PostgreSQL or SQLite.
    """
    kind, rest = _database(url)
    if kind == "sqlite":
        return f"sqlite://{rest}"
    return f"postgresql+psycopg://{_options(rest, _TO_SYNC, _ASYNC_ONLY)}"


def async_url(url: str) -> str:
    """Return *url* with the driver of async sessions: asyncpg or aiosqlite.

    Raises:
        ValueError: It is no URL of PostgreSQL or SQLite.
    """
    kind, rest = _database(url)
    if kind == "sqlite":
        return f"sqlite+aiosqlite://{rest}"
    return f"postgresql+asyncpg://{_options(rest, _TO_ASYNC, _SYNC_ONLY)}"


def broker_url(url: str) -> str:
    """Return *url* with the usual spelling of its scheme: AMQP, Redis or memory.

    Several brokers, of which Celery takes the first that answers, are separated by ``;``.

    Raises:
        ValueError: One of them is no URL, or has another scheme.
    """
    return ";".join(_respelled(one, _BROKERS) for one in several(url))


def redis_url(url: str) -> str:
    """Return *url* with the usual spelling of its scheme: Redis over TCP, TLS or a socket.

    Raises:
        ValueError: It is no URL, or has another scheme.
    """
    return _respelled(url, _REDIS)


def http_url(url: str) -> str:
    """Return *url* when it is one of HTTP with a host.

    Raises:
        ValueError: It is not.
    """
    scheme, rest = _parts(url)
    if scheme not in {"http", "https"}:
        raise ValueError(f"{scheme}:// is not understood here")
    if not urlsplit(f"{scheme}://{rest}").hostname:
        raise ValueError("it names no host")
    return f"{scheme}://{rest}"


def result_backend(url: str) -> str:
    """Return *url* as Celery understands it: a database URL gets ``db+`` and the sync driver.

    Raises:
        ValueError: It is no URL, or has another scheme.
    """
    if url.strip() == "disabled":
        return "disabled"
    scheme, rest = _parts(url.strip().removeprefix("db+"))
    if scheme.partition("+")[0] in {"postgres", "postgresql", "sqlite"}:
        return f"db+{sync_url(f'{scheme}://{rest}')}"
    return _respelled(f"{scheme}://{rest}", _RESULT_BACKENDS)


def management_url(broker: str | None, given: str | None = None) -> str | None:
    """Return where RabbitMQ's management API answers, with the broker's user and password.

    Without *given* it is the broker's host at port 15672; ``None`` for other brokers.
    """
    if broker is None or not broker.startswith(("amqp://", "amqps://")):
        return given
    user, password = credentials(broker) or ("guest", "guest")
    if given is None:
        return join("http", urlsplit(broker).hostname or "localhost", 15672, user, password)
    scheme, rest = _parts(given)
    if credentials(given) is not None:
        return given
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"


def join(
    scheme: str, host: str, port: int | None, user: str = "", password: str = "", path: str = ""
) -> str:
    """Make a URL of its parts; each part is quoted, so that any password fits."""
    login = quote(user, safe="")
    if password:
        login += ":" + quote(password, safe="")
    place = f"[{host}]" if ":" in host else quote(host, safe="")
    if port is not None:
        place += f":{port}"
    tail = "/" + quote(path, safe="") if path else ""
    if host.startswith("/"):  # a folder with a Unix socket, as libpq and asyncpg take it
        place, tail = "", f"{tail or '/'}?{urlencode({'host': host, 'port': port})}"
    return f"{scheme}://{login + '@' if login else ''}{place}{tail}"


def several(url: str) -> list[str]:
    """Return each of the URLs that *url* holds with ``;`` between them."""
    return _BETWEEN.split(url)


def credentials(url: str) -> Credentials | None:
    """Return the user and the password that *url* holds, or ``None`` where it holds neither."""
    parts = urlsplit(url)
    if parts.username is None and parts.password is None:
        return None
    return unquote(parts.username or ""), unquote(parts.password or "")


def is_loopback(url: str) -> bool:
    """Is the server that *url* names on this machine?"""
    host = urlsplit(url).hostname
    return host is None or _LOOPBACK.match(host) is not None


def mask(text: str) -> str:
    """Return *text*, with the password of every URL in it replaced by ``***``."""
    return _SECRET_OPTION.sub(r"\1***", _hide_passwords(text))


def _hide_passwords(text: str) -> str:
    # An unquoted "/", "?", "#" or "@" in a password ends what a parser sees of it, so everything
    # up to the last "@" is hidden.
    hidden = (_PASSWORD.sub(r"\1:***@", one) for one in several(text))
    return ";".join(hidden)


def _parts(url: str) -> tuple[str, str]:
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not _SCHEME.match(scheme):
        raise ValueError("it is not a URL: it has no scheme://")
    try:
        _ = urlsplit(f"{scheme}://{rest}").port
    except ValueError:
        raise ValueError(f"its host and port cannot be read ({_ENCODED})") from None
    return scheme.lower(), rest


def _respelled(url: str, accepted: frozenset[str]) -> str:
    scheme, rest = _parts(url)
    spelled = _SPELLINGS.get(scheme)
    if spelled is None or spelled not in accepted:
        raise ValueError(f"{scheme}:// is not understood here")
    if spelled in {"redis", "rediss"}:
        _check_database_of_redis(f"{spelled}://{rest}")
    return f"{spelled}://{rest}"


def _check_database_of_redis(url: str) -> None:
    # https://www.iana.org/assignments/uri-schemes/prov/redis
    path = urlsplit(url).path.strip("/")
    if path and not (path.isascii() and path.isdigit()):
        raise ValueError(
            f"what follows its host must be the number of a database, such as /0 ({_ENCODED})"
        )


def _database(url: str) -> tuple[str, str]:
    scheme, rest = _parts(url)
    kind = scheme.partition("+")[0]
    if kind == "postgres":
        kind = "postgresql"
    if kind not in {"postgresql", "sqlite"}:
        raise ValueError(f"{scheme}:// is not understood here")
    return kind, rest


def _options(rest: str, renamed: dict[str, str], dropped: frozenset[str]) -> str:
    place, question, query = rest.partition("?")
    if not question:
        return rest
    options = [
        (renamed.get(name, name), value)
        for name, value in parse_qsl(query, keep_blank_values=True)
        if name not in dropped
    ]
    return f"{place}?{urlencode(options)}" if options else place
