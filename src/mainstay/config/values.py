"""The types that settings are made of: what is understood, and how it is then spelled."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from mainstay.config import urls
from mainstay.config.fields import Accepts

__all__ = [
    "ApiPath",
    "AsyncDatabaseUrl",
    "BrokerUrl",
    "Count",
    "DatabaseUrl",
    "Environment",
    "HttpUrl",
    "JwtSecret",
    "LogFormat",
    "LogLevel",
    "Name",
    "NoSeconds",
    "Port",
    "PositiveCount",
    "PrivateKey",
    "RateLimit",
    "RedisUrl",
    "ResultBackend",
    "Seconds",
    "WholeSeconds",
    "environment",
    "rate",
]

_ENVIRONMENTS = {
    "development": "dev",
    "local": "dev",
    "production": "prod",
    "staging": "stg",
    "stage": "stg",
    "testing": "test",
}
_WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(r"\s*(\d{1,9})\s*/\s*(second|minute|hour|day)s?\s*\Z", re.IGNORECASE)


def rate(limit: str) -> tuple[int, int]:
    """Return ``(300, 60)`` for ``"300/minute"``: requests, and the window in seconds.

    Raises:
        ValueError: It has another form, or admits nothing.
    """
    match = _RATE.match(limit)
    if match is None or int(match[1]) == 0:
        raise ValueError("it is no rate")
    return int(match[1]), _WINDOWS[match[2].lower()]


def environment(value: Any) -> Any:
    """Return the short name of an environment: ``dev`` for ``development``."""
    if not isinstance(value, str):
        return value
    return _ENVIRONMENTS.get(value.strip().lower(), value.strip().lower())


def _log_level(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    level = value.strip().upper()
    return {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(level, level)


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _rate_limit(value: str) -> str | None:
    if value.strip().lower() in {"false", "none", "off"}:
        return None
    requests, window = rate(value)
    return f"{requests}/{next(name for name, size in _WINDOWS.items() if size == window)}"


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("it holds characters that cannot be printed")
    return value


def _jwt_secret(value: SecretStr) -> SecretStr:
    length = len(value.get_secret_value().encode())
    if length < 32:
        raise ValueError(f"it is {length} bytes long")
    return value


def _private_key(value: SecretStr) -> SecretStr:
    # A PEM file in an environment variable often has its line ends written as \n.
    pem = value.get_secret_value().replace("\\n", "\n").strip()
    if not (pem.startswith("-----BEGIN ") and "PRIVATE KEY-----" in pem.partition("\n")[0]):
        raise ValueError("it is no private key")
    return SecretStr(pem + "\n")


Environment = Annotated[Literal["dev", "stg", "prod", "test"], BeforeValidator(environment)]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_log_level)
]
LogFormat = Annotated[Literal["json", "text"], BeforeValidator(_lower)]

Name = Annotated[
    str,
    Field(min_length=1, max_length=128),
    AfterValidator(_printable),
    Accepts("1 to 128 printable characters"),
]
Port = Annotated[int, Field(ge=0, le=65_535)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]
WholeSeconds = Annotated[int, Field(ge=1, le=31_536_000)]
NoSeconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]
ApiPath = Annotated[
    str,
    Field(pattern=r"^/*([A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*)?/*$"),
    AfterValidator(lambda path: path.strip("/")),
    Accepts("a path such as api/v1"),
]
RateLimit = Annotated[
    str,
    AfterValidator(_rate_limit),
    Accepts("N/second, N/minute, N/hour or N/day with N above 0, or none"),
]

DatabaseUrl = Annotated[
    str, AfterValidator(urls.sync_url), Accepts("postgresql:// or sqlite://, with any driver")
]
AsyncDatabaseUrl = Annotated[
    str, AfterValidator(urls.async_url), Accepts("postgresql:// or sqlite://, with any driver")
]
RedisUrl = Annotated[str, AfterValidator(urls.redis_url), Accepts("redis://, rediss:// or unix://")]
BrokerUrl = Annotated[
    str,
    AfterValidator(urls.broker_url),
    Accepts("amqp://, amqps://, redis://, rediss:// or memory://"),
]
ResultBackend = Annotated[
    str,
    AfterValidator(urls.result_backend),
    Accepts("postgresql://, sqlite://, redis://, rediss:// or disabled"),
]
HttpUrl = Annotated[str, AfterValidator(urls.http_url), Accepts("http:// or https://")]

JwtSecret = Annotated[SecretStr, AfterValidator(_jwt_secret), Accepts("32 bytes or more")]
PrivateKey = Annotated[
    SecretStr, AfterValidator(_private_key), Accepts("a private key in PEM form")
]
