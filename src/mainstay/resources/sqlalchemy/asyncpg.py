"""How is told to asyncpg what a URL says in libpq's words?

asyncpg takes server settings and certificates as arguments, not as options of its URL; see
https://magicstack.github.io/asyncpg/current/api/index.html#connection and, for what the options
mean, https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS.
"""

from __future__ import annotations

import shlex
import ssl
from typing import Any

from sqlalchemy import URL

__all__ = ["arguments"]

_FILES = ("sslrootcert", "sslcert", "sslkey")


def arguments(address: URL) -> tuple[URL, dict[str, Any]]:
    """Return *address* without what asyncpg would refuse, and the arguments that say the same."""
    told = {name: value for name, value in address.query.items() if isinstance(value, str)}
    given: dict[str, Any] = {}
    if "options" in told:
        given["server_settings"] = _server_settings(told["options"])
        address = address.difference_update_query(["options"])
    if any(name in told for name in _FILES):
        given["ssl"] = _context(told)
        address = address.difference_update_query(["ssl", *_FILES])
    return address, given


def _server_settings(options: str) -> dict[str, str]:
    """Read ``-c name=value -cname=value --name=value``."""
    settings: dict[str, str] = {}
    words = iter(shlex.split(options))
    for word in words:
        pair = next(words, "") if word == "-c" else word.removeprefix("--").removeprefix("-c")
        name, separator, value = pair.partition("=")
        if separator:
            settings[name.replace("-", "_")] = value
    return settings


def _context(told: dict[str, str]) -> ssl.SSLContext:
    mode = told.get("ssl", "prefer")
    context = ssl.create_default_context(cafile=told.get("sslrootcert"))
    context.check_hostname = mode == "verify-full"
    # As libpq: a root certificate is there to be checked against, whatever the mode.
    if "sslrootcert" not in told and not mode.startswith("verify"):
        context.verify_mode = ssl.CERT_NONE
    if "sslcert" in told:
        context.load_cert_chain(told["sslcert"], told.get("sslkey"))
    return context
