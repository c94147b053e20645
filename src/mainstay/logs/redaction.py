"""Which part of a log line must not be read by anybody?

Most words of a log line come again and again: what was once found to hold no secret is remembered,
so that asking costs a look into a set. Other text is searched for the beginnings of secrets, and
only what has one is taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, time
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote, urlsplit

from mainstay.config.fields import MASK, is_named_secret, secrets_of

__all__ = ["MASK", "Redaction", "is_secret_name"]

# Shorter values are no secrets, and hiding them would tear holes into other words.
_SHORTEST_HIDDEN = 4
# The passwords of servers that are fresh from their package are words of their own.
_PUBLIC = frozenset({"guest", "postgres"})
_DEEPEST = 8
_LONGEST = 16_384
_WIDEST = 1 << 63  # the integers that every reader of JSON can take
_AS_THEY_ARE = frozenset({int, float, bool, type(None)})
_REMEMBERED = 10_000
_REMEMBERED_LENGTH = 128

_NAMES = (
    "password|passwd|passphrase|secret|token|authorization|cookie|api[_.-]?key|credential"
    "|private[_.-]?key|access[_.-]?key|signing[_.-]?key|encryption[_.-]?key|jwt"
)
_SECRET_NAME = re.compile(rf"{_NAMES}|^(?:pwd|pass|auth)$|[_.-](?:pwd|pass)$", re.IGNORECASE)

# What text must hold, in lower case, before any of the rules below can match.
_BEGINNINGS = (
    "://", "bearer", "basic", "eyj", "-----begin", "passw", "passphrase", "secret", "token",
    "authorization", "cookie", "key", "credential", "jwt",
)  # fmt: skip

# None of them goes back over what it has read: a long value must not cost its length squared.
_PEM = re.compile(r"-----BEGIN [^-]+-----.*?(?:-----END [^-]+-----|\Z)", re.DOTALL)
_URL_CREDENTIALS = re.compile(r"://[^\s/\"'<>]*@")
_SCHEME_TOKEN = re.compile(r"\b(?P<scheme>bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_JWT = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")
# A header inside text: all of it, since a cookie goes on behind its semicolon.
_HEADER = re.compile(
    r"(?P<name>\b(?:set-)?cookie|(?:proxy-)?authorization)(?P<between>\s*[:=]\s*)"
    r"(?![\"'\\\s])[^\r\n\"']+",
    re.IGNORECASE,
)
# password=…, "token": "…", X-Api-Key: …, inside text, a repr, JSON or a query string.
_ASSIGNED = re.compile(
    rf"(?P<name>(?:{_NAMES})[\w.-]{{0,64}})(?P<between>(?:\\*[\"'])?\s*(?:=>|[:=])\s*)"
    rf"(?!{re.escape(MASK)})"
    r"(?:\\+[\"'][^\"']*[\"']?|\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|[^\s,;&)}\]\"']+)",
    re.IGNORECASE,
)


@lru_cache(maxsize=_REMEMBERED)
def is_secret_name(name: str) -> bool:
    """Is a value called *name* likely to be a secret?"""
    return _SECRET_NAME.search(name) is not None


class Redaction:
    """The rules, and the exact values that were hidden."""

    def __init__(self) -> None:
        self._hidden: tuple[str, ...] = ()
        self._beginnings = _any_of(_BEGINNINGS)
        self._clean: set[str] = set()
        self._names: set[str] = set()

    def hide(self, secret: str) -> None:
        """Mask this exact value wherever it appears, also as it is written inside a URL."""
        if len(secret) < _SHORTEST_HIDDEN:
            return
        forms = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret)}
        # Longest first: a secret that contains another one is masked whole.
        self._hidden = tuple(sorted({*self._hidden, *forms}, key=len, reverse=True))
        self._beginnings = _any_of((*_BEGINNINGS, *(form.lower() for form in self._hidden)))
        self._clean, self._names = set(), set()

    def hide_all(self, settings: object) -> None:
        """Hide every secret that *settings* hold, however deep inside, and the passwords in their
        URLs.
        """
        for name, value in getattr(settings, "__dict__", {}).items():
            for inner, text in secrets_of(name, value):
                if "://" in text and (password := _password_in(text)):
                    self.hide(password)
                    self.hide(unquote(password))
                # By both rules: the issuer of a JWT, and the key of a partition, are words.
                is_named = is_named_secret(inner) and is_secret_name(inner)
                if not inner or (is_named and text not in _PUBLIC):
                    self.hide(text)

    def passes(self, text: str) -> bool:
        """May *text* be written as it is? Never wrong about a yes."""
        if text in self._clean:
            return True
        if not self.passes_once(text):
            return False
        if len(text) <= _REMEMBERED_LENGTH:
            if len(self._clean) >= _REMEMBERED:
                self._clean.clear()  # of words that never came again; the others will
            self._clean.add(text)
        return True

    def passes_once(self, text: str) -> bool:
        """As :meth:`passes`, for text that will not come again."""
        return len(text) <= _LONGEST and self._beginnings.search(text.lower()) is None

    def fields_pass(self, fields: Mapping[str, object]) -> bool:
        """May all *fields* be written as they are? Those of a common kind, that is."""
        names, clean = self._names, self._clean
        for name, value in fields.items():
            if name not in names and not self._name_passes(name):
                return False
            kind = type(value)
            if kind is str:
                if value not in clean and not self.passes(value):  # type: ignore[arg-type]  # it is text
                    return False
            elif kind not in _AS_THEY_ARE:
                return False
        return True

    def _name_passes(self, name: str) -> bool:
        if is_secret_name(name) or not self.passes(name):
            return False
        if len(self._names) >= _REMEMBERED:
            self._names.clear()
        self._names.add(name)
        return True

    def text(self, text: str) -> str:
        """Return *text* as it may be written: without secrets, and not endless."""
        length = len(text)
        if length > 2 * _LONGEST:  # more than will be left; a secret at this cut goes with it
            text = text[: 2 * _LONGEST]
        if not self.passes(text):
            for secret in self._hidden:
                if secret in text:
                    text = text.replace(secret, MASK)
            text = _PEM.sub(MASK, text)
            text = _URL_CREDENTIALS.sub(f"://{MASK}@", text)
            text = _SCHEME_TOKEN.sub(rf"\g<scheme> {MASK}", text)
            text = _JWT.sub(MASK, text)
            text = _HEADER.sub(rf"\g<name>\g<between>{MASK}", text)
            text = _ASSIGNED.sub(rf"\g<name>\g<between>{MASK}", text)
            if length > _LONGEST:
                text = f"{text[:_LONGEST]}… ({length} characters)"
        # A lone surrogate (a file's name, a broken client) stays visible, as \udc80.
        return text.encode("utf-8", "backslashreplace").decode()

    def value(self, name: str, value: object, depth: int = 0) -> object:
        """Return *value*, which is called *name*, as JSON can write it, without secrets."""
        if value is None or isinstance(value, bool):
            return value
        if is_secret_name(name):
            return MASK
        if isinstance(value, float) or (isinstance(value, int) and -_WIDEST <= value < _WIDEST):
            return value
        if isinstance(value, str):
            return self.text(value)
        if depth < _DEEPEST:
            if isinstance(value, Mapping):
                return {
                    self.text(str(key)): self.value(str(key), item, depth + 1)
                    for key, item in value.items()
                }
            if isinstance(value, (list, tuple, set, frozenset)):
                return [self.value("", item, depth + 1) for item in value]
        return self.text(_shown(value))


def _password_in(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return None
    return None if password in {parts.username, *_PUBLIC} else password


def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


def _shown(value: object) -> str:
    try:
        return value.isoformat() if isinstance(value, (date, time)) else str(value)
    except Exception:  # noqa: BLE001 - a field must not raise where the line is written
        return f"<{type(value).__name__} that cannot be shown>"
