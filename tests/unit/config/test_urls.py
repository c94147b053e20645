"""Addresses of servers: spellings, parts, drivers, masks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import make_url

from mainstay.config import Group, Settings, Sources, urls

HOSTS = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True)
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,30}", fullmatch=True)
PORTS = st.integers(1, 65_535)


@given(host=HOSTS, port=PORTS, user=WORDS, password=WORDS, path=NAMES)
def test_every_part_comes_out_as_it_went_in(
    host: str, port: int, user: str, password: str, path: str
) -> None:
    url = make_url(urls.sync_url(urls.join("postgres", host, port, user, password, path)))
    assert (url.drivername, url.host, url.port) == ("postgresql+psycopg", host, port)
    assert (url.username, url.password) == (user, password)
    assert urls.credentials(urls.join("amqp", host, port, user, password)) == (user, password)


@given(host=HOSTS, port=PORTS, user=WORDS, password=WORDS, path=NAMES)
def test_both_drivers_name_the_same_server(
    host: str, port: int, user: str, password: str, path: str
) -> None:
    url = urls.join("postgresql+psycopg2", host, port, user, password, path)
    sync, aio = urls.sync_url(url), urls.async_url(url)
    assert sync == urls.sync_url(aio) == urls.sync_url(sync)
    assert aio == urls.async_url(sync) == urls.async_url(aio)
    assert sync.partition("://")[2] == aio.partition("://")[2]


@given(host=HOSTS, port=PORTS, user=WORDS, password=WORDS, path=NAMES)
def test_parts_that_are_loaded_come_out_as_they_went_in(
    host: str, port: int, user: str, password: str, path: str
) -> None:
    assume(user.strip() and password.strip())  # a blank variable names nothing
    environ = {
        "POSTGRES_HOST": host,
        "POSTGRES_PORT": str(port),
        "POSTGRES_USER": user,
        "POSTGRES_PASSWORD": password,
        "POSTGRES_DB": path,
        "APP_ENV": "test",
    }
    nowhere = Path("/nowhere")
    loaded = Settings.load_from(Sources(nowhere, environ, secrets=nowhere, embedded=False))
    for text in (loaded.database_url, loaded.async_database_url):
        url = make_url(str(text))
        assert (url.host, url.port, url.username) == (host, port, user)
        assert (url.password, url.database) == (password, path)


@given(host=HOSTS, user=WORDS, password=st.text(min_size=1, max_size=30))
def test_a_mask_leaves_nothing_of_a_password(host: str, user: str, password: str) -> None:
    canary = "canary" + password.replace("@", "")
    for url in (
        urls.join("amqp", host, 5672, user, canary),
        f"redis://:{canary}@{host}/0",
        f"redis://{host}/0?password={quote(canary)}&x=1",
    ):
        assert "canary" not in urls.mask(url)
        assert host in urls.mask(url)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://app:pw@db/x", "postgresql://app:***@db/x"),
        ("postgresql://app@db/x", "postgresql://app@db/x"),
        ("amqp://a:un/quo#ted?p@w@mq//", "amqp://a:***@mq//"),
        ("amqp://a:one@mq1;amqp://a:two@mq2", "amqp://a:***@mq1;amqp://a:***@mq2"),
        ("amqp://a:se;mi@mq", "amqp://a:***@mq"),
        ("https://x/?a=1&api_key=k&b=2", "https://x/?a=1&api_key=***&b=2"),
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("nothing of that kind", "nothing of that kind"),
    ],
)
def test_a_password_is_masked_and_nothing_else(url: str, masked: str) -> None:
    assert urls.mask(url) == masked


@pytest.mark.parametrize(
    ("given_url", "sync", "aio"),
    [
        ("postgres://h/d", "postgresql+psycopg://h/d", "postgresql+asyncpg://h/d"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg://h/d", "postgresql+asyncpg://h/d"),
        ("postgresql+asyncpg://h/d", "postgresql+psycopg://h/d", "postgresql+asyncpg://h/d"),
        ("sqlite:///x.db", "sqlite:///x.db", "sqlite+aiosqlite:///x.db"),
        ("sqlite+aiosqlite:////a/x.db", "sqlite:////a/x.db", "sqlite+aiosqlite:////a/x.db"),
        ("sqlite://", "sqlite://", "sqlite+aiosqlite://"),
        (
            "postgresql://h/d?sslmode=require&application_name=x",
            "postgresql+psycopg://h/d?sslmode=require&application_name=x",
            "postgresql+asyncpg://h/d?ssl=require",
        ),
        (
            "postgresql+asyncpg://h/d?ssl=verify-full&statement_cache_size=0",
            "postgresql+psycopg://h/d?sslmode=verify-full",
            "postgresql+asyncpg://h/d?ssl=verify-full&statement_cache_size=0",
        ),
    ],
)
def test_any_driver_is_understood_and_each_side_gets_its_own(
    given_url: str, sync: str, aio: str
) -> None:
    assert (urls.sync_url(given_url), urls.async_url(given_url)) == (sync, aio)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://h/d", "mysql:// is not understood here"),
        ("just-words", "it has no scheme://"),
        ("postgresql://u:p/w@h:5432/d", "percent-encoded"),
        ("postgresql://h:70000/d", "cannot be read"),
    ],
)
def test_what_is_no_database_is_refused(url: str, message: str) -> None:
    for understand in (urls.sync_url, urls.async_url):
        with pytest.raises(ValueError, match=re.escape(message)):
            understand(url)


@pytest.mark.parametrize(
    ("url", "understood"),
    [
        ("pyamqp://h", "amqp://h"),
        ("amqps://h:5671/v", "amqps://h:5671/v"),
        ("valkey://h/1", "redis://h/1"),
        ("rediss://h", "rediss://h"),
        ("memory://", "memory://"),
        ("amqp://a;pyamqp://b", "amqp://a;amqp://b"),
    ],
)
def test_brokers_are_understood_in_their_usual_spellings(url: str, understood: str) -> None:
    assert urls.broker_url(url) == understood


@pytest.mark.parametrize("url", ["sqs://", "kafka://h", "http://h", "unix:///x", "h:5672"])
def test_what_is_no_broker_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"not understood|no scheme://"):
        urls.broker_url(url)


def test_redis_may_listen_on_a_socket() -> None:
    assert urls.redis_url("unix:///run/redis.sock?db=1") == "unix:///run/redis.sock?db=1"


@pytest.mark.parametrize(
    ("url", "understood"),
    [
        ("postgresql://h/d", "db+postgresql+psycopg://h/d"),
        ("db+postgresql+psycopg2://h/d", "db+postgresql+psycopg://h/d"),
        ("db+sqlite:///r.db", "db+sqlite:///r.db"),
        ("redis://h/1", "redis://h/1"),
        ("valkeys://h/1", "rediss://h/1"),
        ("rpc://", "rpc://"),
        ("disabled", "disabled"),
    ],
)
def test_result_backends_become_what_celery_understands(url: str, understood: str) -> None:
    assert urls.result_backend(url) == understood


@pytest.mark.parametrize(
    "url", ["foo://x", "cache+memory://", "sentinel://h:26379", "redis+socket:///x", "h:6379"]
)
def test_what_is_no_result_backend_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"not understood|no scheme://"):
        urls.result_backend(url)


@pytest.mark.parametrize("understand", [urls.broker_url, urls.redis_url, urls.result_backend])
@pytest.mark.parametrize("url", ["redis://h/abc", "rediss://h/1/2", "redis://:p@ss/w#rd@h/0"])
def test_a_database_of_redis_is_a_number(understand: Callable[[str], str], url: str) -> None:
    with pytest.raises(ValueError, match=r"number of a database.* percent-encoded"):
        understand(url)


def test_the_management_api_is_the_brokers_host_with_the_brokers_login() -> None:
    broker = "amqps://us%40er:p%2Fw@mq.example:5671/vhost"
    assert urls.management_url(broker) == "http://us%40er:p%2Fw@mq.example:15672"
    assert urls.management_url(broker, "https://m:1") == "https://us%40er:p%2Fw@m:1"
    assert urls.management_url(broker, "https://own:pw@m:1") == "https://own:pw@m:1"
    assert urls.management_url("redis://h") is None
    assert urls.management_url(None) is None


def test_hosts_may_be_ipv6_addresses_and_sockets() -> None:
    assert urls.join("amqp", "::1", 5672, "u", "p") == "amqp://u:p@[::1]:5672"
    url = urls.join("postgresql", "/run/postgresql", 5433, "u", "", "d")
    assert url == "postgresql://u@/d?host=%2Frun%2Fpostgresql&port=5433"


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("amqp://localhost", True),
        ("amqp://127.3.2.1:1", True),
        ("amqp://[::1]:1", True),
        ("sqlite:///x", True),
        ("amqp://rabbitmq", False),
        ("amqp://127.evil.example", False),
        ("amqp://localhost.evil.example", False),
    ],
)
def test_loopback_is_told_from_the_rest(url: str, loopback: bool) -> None:
    assert urls.is_loopback(url) is loopback


def test_a_group_knows_its_variables() -> None:
    group = Group("amqp", host="H", port="P", user="U", password="W", default_port=5672)
    assert group.variables == ("H", "P", "U", "W")
    assert group.text == "H, P, U, W"


@pytest.mark.parametrize("password", ["SHOP_PASS", "SHOP_PASSWORD"])
def test_a_group_of_a_service_knows_both_names_of_its_password(password: str) -> None:
    group = Group("amqp", host="H", port="P", user="U", password=password, default_port=5672)
    assert set(group.passwords) == {"SHOP_PASS", "SHOP_PASSWORD"}
    assert group.passwords[0] == password
    assert group.variables == ("H", "P", "U", *group.passwords)
    assert group.text == f"H, P, U, {' or '.join(group.passwords)}"
