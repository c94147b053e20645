"""Secrets do not reach a line, wherever they stand."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from pydantic import SecretStr

from mainstay import context as contexts
from mainstay.config import Settings
from mainstay.context import Context
from mainstay.logs import Handler, Logs
from mainstay.logs.redaction import MASK, Redaction, is_secret_name

CANARY = "c4n4ry-Kz81"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQ\n-----END PRIVATE KEY-----"


def written(*args: object, hidden: str | None = None, **fields: Any) -> str:
    """What comes out of both ways to write, as text and as JSON."""
    out = ""
    for form in ("json", "text"):
        stream = io.BytesIO()
        logs = Logs(Settings(env="test", log_format=form), stream=stream)
        if hidden is not None:
            logs.hide(hidden)
        logs.write("info", "x", " ".join(map(str, args)), **fields)
        record = logging.LogRecord("x", 20, __file__, 1, "%s " * len(args), args, None)
        record.__dict__.update(fields)
        Handler(logs).handle(record)
        out += stream.getvalue().decode()
    assert out.count("\n") >= 4
    return out


@pytest.mark.parametrize(
    "name",
    [
        *("password", "db_password", "PASSWD", "client_secret", "access_token", "Authorization"),
        *("Set-Cookie", "api_key", "X-Api-Key", "apikey", "private_key", "credentials", "jwt"),
        *("pwd", "auth", "smtp_pass"),
    ],
)
def test_a_value_with_the_name_of_a_secret_is_masked(name: str) -> None:
    assert is_secret_name(name)
    fields: list[dict[str, Any]] = [
        {name: CANARY},
        {name: 8_150_815},
        {name: {"deeper": CANARY}},
        {"outer": {"inner": [{name: CANARY}]}},
    ]
    for field in fields:
        out = written("x", **field)
        assert CANARY not in out
        assert "8150815" not in out


@pytest.mark.parametrize("name", ["author", "monkey", "compass", "idempotency_key", "key", "route"])
def test_a_name_that_only_resembles_one_is_not(name: str) -> None:
    assert CANARY in written("x", **{name: CANARY})


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://app:{CANARY}@db:5432/orders",
        f"cannot reach amqp://guest:{CANARY}@broker//: refused",
        f"https://{CANARY}@github.com/x",
        f"https://user:p@ss{CANARY}@host/x",
        f"Authorization: Bearer {CANARY}-{CANARY}",
        f"bearer {CANARY}-{CANARY}",
        f"Basic {CANARY.replace('-', '')}==",
        f"password={CANARY}",
        f"password = '{CANARY}' host=db",
        f'{{"access_token": "{CANARY}", "x": 1}}',
        f'{{\\"access_token\\": \\"{CANARY}\\"}}',
        f"User(name='x', password='{CANARY}')",
        f"/callback?code=1&client_secret={CANARY}&state=2",
        f"Cookie: a=b; sid={CANARY}",
        f'password="{CANARY} and then the text ends',
        f"X-Api-Key: {CANARY}",
        f"{JWT}{CANARY}",
        PEM.replace("MIIE", CANARY),
        PEM.replace("MIIE", CANARY).partition("-----END")[0],
    ],
)
def test_a_secret_inside_text_is_masked(text: str) -> None:
    out = written(text, value=text, error=None, nested={"of": [text]})
    out += written(RuntimeError(text))

    assert CANARY not in out
    assert MASK in out


def test_a_secret_inside_a_stack_is_masked() -> None:
    stream = io.BytesIO()
    logs = Logs(Settings(env="test", log_format="json"), stream=stream)

    logs.write("error", "x", "y", error=RuntimeError(f"amqp://u:{CANARY}@h refused"))

    assert CANARY.encode() not in stream.getvalue()


@pytest.mark.parametrize("secret", [CANARY, "pä55/wörd+x", 'quo"te\\d', "line\nbreak", "a b&c=d"])
def test_a_hidden_value_reaches_no_line(secret: str) -> None:
    out = written(
        f"it is {secret}.",
        secret,
        hidden=secret,
        value=secret,
        nested={secret: [secret, {"x": f"<{secret}>"}]},
        shown=ValueError(secret),
        event=f"event {secret}",
        **{f"name {secret}": 1},
    )

    assert secret not in out
    assert MASK in out


def test_a_hidden_value_is_found_as_it_is_written_in_a_url() -> None:
    assert "p%40ss%2Fword" not in written("redis://h/p%40ss%2Fword", hidden="p@ss/word")


def test_what_was_found_clean_is_looked_at_again_once_something_is_hidden() -> None:
    redaction = Redaction()
    assert redaction.text(CANARY) == CANARY

    redaction.hide(CANARY)

    assert redaction.text(CANARY) == MASK


def test_a_secret_that_holds_another_is_masked_whole() -> None:
    redaction = Redaction()
    redaction.hide(CANARY)
    redaction.hide(f"{CANARY}-and-more")

    assert redaction.text(f"{CANARY}-and-more") == MASK


def test_very_short_values_are_not_hidden() -> None:
    redaction = Redaction()
    redaction.hide("a")

    assert redaction.text("a card") == "a card"


def test_the_secrets_of_the_settings_are_hidden_from_the_start() -> None:
    stream = io.BytesIO()
    url_password = "Ur1-P455w0rd"
    key = "k" * 20 + CANARY + "k" * 20
    settings = Settings(
        env="test",
        log_format="json",
        jwt_secret_key=SecretStr(key),
        redis_url=f"redis://:{url_password}@localhost/0",
    )

    Logs(settings, stream=stream).write("info", "x", f"{key} and {url_password} were read")

    assert CANARY.encode() not in stream.getvalue()
    assert url_password.encode() not in stream.getvalue()


def test_ordinary_words_stay_as_they_are() -> None:
    redaction = Redaction()

    for text in (
        "GET /api/v1/items 200",
        "the key is under the mat",
        "token refreshed",
        "see https://example.org/docs",
        "3 basic steps",
    ):
        assert redaction.text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("a" * 32_000, "eyJ-" * 8_000, "token " * 5_000, "a://" * 8_000, "password=" * 3_500),
        *("bearer " * 4_500, "token" + " " * 32_000, "-----BEGIN " * 2_900, "cookie:" * 4_500),
    ],
    ids=lambda text: text[:11],
)
def test_long_text_is_read_once(text: str) -> None:
    # Minutes, were a rule to read it again from each of its characters.
    Redaction().text(f"{text}{JWT}")


def test_a_secret_that_a_caller_sends_as_correlation_id_is_masked() -> None:
    token = JWT.replace("eyJ", "eyJ" + CANARY.replace("-", ""))
    stream = io.BytesIO()
    with contexts.use(Context.extract({"x-correlation-id": token})) as context:
        assert context.correlation_id == token
        logs = Logs(Settings(env="test", log_format="json"), stream=stream)
        logs.write("info", "x", "y")
        logs.line("info", "x", "y").write(0.001)

    assert len(stream.getvalue().splitlines()) == 2
    assert b"c4n4ry" not in stream.getvalue()
