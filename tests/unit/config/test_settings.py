"""The settings themselves: values, defaults, the prefix, refusals, and what is never shown."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from types import new_class
from typing import Annotated, Any, Self

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    Secret,
    SecretStr,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from typing_extensions import TypedDict

import mainstay
from mainstay.config import Settings, rate
from mainstay.config.examples import dotenv_example, yaml_example
from mainstay.errors import Misconfigured
from mainstay.logs import Logs

CANARY = "canary-5e1f0c2b"
KEY = "0123456789abcdefghijklmnopqrstuv"


def refusal(load: Any, environ: dict[str, str], **options: Any) -> str:
    with pytest.raises(Misconfigured) as refused:
        load(environ, **options)
    return str(refused.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"APP_PORT": "80a"},
            (
                "port: '80a' from environment APP_PORT: not accepted; "
                "accepted is a whole number from 0 to 65535"
            ),
        ),
        ({"APP_PORT": "65536"}, "accepted is a whole number from 0 to 65535"),
        ({"APP_METRICS_PORT": "-1"}, "metrics_port: '-1' from environment APP_METRICS_PORT"),
        (
            {"APP_ENV": "qa"},
            (
                "env: 'qa' from environment APP_ENV: not accepted; "
                "accepted is one of dev, stg, prod, test"
            ),
        ),
        (
            {"APP_METRICS_ENABLED": "maybe"},
            (
                "metrics_enabled: 'maybe' from environment APP_METRICS_ENABLED: not accepted; "
                "accepted is 1/0, true/false, yes/no or on/off"
            ),
        ),
        (
            {"APP_LOG_LEVEL": "LOUD"},
            "accepted is one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
        ),
        (
            {"APP_LOOP_SLEEP_SECONDS": "0"},
            (
                "loop_sleep_seconds: '0' from environment APP_LOOP_SLEEP_SECONDS: not accepted; "
                "accepted is a number above 0"
            ),
        ),
        ({"APP_REQUEST_TIMEOUT_SECONDS": "nan"}, "request_timeout_seconds: 'nan'"),
        ({"APP_GRACE_SECONDS": "inf"}, "grace_seconds: 'inf'"),
        ({"APP_DRAIN_DELAY_SECONDS": "-1"}, "accepted is a number from 0 "),
        (
            {"APP_RATE_LIMIT": "300 per minute"},
            (
                "rate_limit: '300 per minute' from environment APP_RATE_LIMIT: not accepted: "
                "it is no rate; accepted is N/second, N/minute, N/hour or N/day with N above 0, or "
                "none"
            ),
        ),
        ({"APP_RATE_LIMIT": "0/minute"}, "rate_limit: '0/minute'"),
        (
            {"DATABASE_URL": "mysql://u:p@h/d"},
            (
                "database_url: environment DATABASE_URL: not accepted: mysql:// is not understood "
                "here; accepted is postgresql:// or sqlite://, with any driver"
            ),
        ),
        (
            {"CELERY_BROKER_URL": "sqs://"},
            (
                "celery_broker_url: environment CELERY_BROKER_URL: not accepted: sqs:// is not "
                "understood here; accepted is amqp://, amqps://, redis://, rediss:// or memory://"
            ),
        ),
        ({"REDIS_URL": "h:6379"}, "redis_url: environment REDIS_URL: not accepted"),
        ({"RABBITMQ_MANAGEMENT_URL": "http://"}, "it names no host; accepted is http://"),
        (
            {"DATABASE_HOST": "db", "DATABASE_PORT": "x"},
            (
                "database_url: environment DATABASE_PORT: not accepted; "
                "accepted is a whole number from 1 to 65535"
            ),
        ),
        ({"RABBITMQ_HOST": "mq:5672"}, "rabbitmq_url: environment RABBITMQ_HOST: not accepted"),
        (
            {"RESULT_BACKEND_URL": "postgresql://h/d"},
            (
                "celery_result_backend: environment RESULT_BACKEND_URL: not accepted; accepted is "
                "a host's name or address, without scheme and port"
            ),
        ),
        (
            {"JWT_SECRET_KEY": "too-short"},
            (
                "jwt_secret_key: environment JWT_SECRET_KEY: not accepted: it is 9 bytes long; "
                "accepted is 32 bytes or more"
            ),
        ),
        (
            {"APP_JWT_PRIVATE_KEY": "-----BEGIN PUBLIC KEY-----\nx"},
            "jwt_private_key: environment APP_JWT_PRIVATE_KEY: not accepted: it is no private key",
        ),
        (
            {"JWT_SECRET_KEY": KEY, "JWT_JWKS_URL": "https://x/jwks"},
            "jwt_secret_key and jwt_jwks_url: only one of them may be set",
        ),
        (
            {"CELERY_TASK_ACKS_LATE": "0"},
            "celery_task_acks_late: 0 loses the tasks of a worker that dies",
        ),
        (
            {"CELERY_TASK_ALWAYS_EAGER": "1"},
            "celery_task_always_eager: 1 runs tasks inside the request",
        ),
        ({"CELERY_TASK_PROFILE": "ack"}, "accepted is one of redeliver, dead-letter"),
        ({"CELERY_TASK_TIME_LIMIT": "0"}, "celery_task_time_limit: '0'"),
        ({"CELERY_RESULT_BACKEND": "rpc://"}, "rpc:// forgets results with the connection"),
        (
            {"RABBITMQ_URL": "amqp://guest:guest@rabbitmq"},
            "rabbitmq_url: user and password are the server's default ones",
        ),
        ({"RABBITMQ_HOST": "rabbitmq"}, "rabbitmq_url: user and password are the server's default"),
        ({"CELERY_BROKER_URL": "amqp://rabbitmq"}, "celery_broker_url: user and password are the"),
        (
            {"DATABASE_URL": "postgresql://postgres:postgres@db/x"},
            "database_url: user and password are the server's default ones",
        ),
        ({"APP_SECRET_KEY": "secret"}, "secret_key: it is a placeholder that anybody can guess"),
        ({"APP_SECRET_KEY": "changeme-changeme"}, "secret_key: it is a placeholder"),
        ({"JWT_SECRET_KEY": "please-change-me" * 4}, "jwt_secret_key: it is a placeholder"),
        ({"APP_DEBUG": "1"}, "debug: it shows internals to callers"),
        (
            {"APP_CORS_ALLOW_ORIGINS": "https://a.example, *"},
            "cors_allow_origins: '*' lets every site use a visitor's login",
        ),
        (
            {"APP_DRAIN_DELAY_SECONDS": "3000", "APP_GRACE_SECONDS": "3000"},
            "drain_delay_seconds and grace_seconds: together 6000 seconds",
        ),
        ({"APP_TRUSTED_PROXIES": "*"}, "accepted is a whole number from 0 to 100"),
        ({"API_PRIMARY_PATH": "a b"}, "accepted is a path such as api/v1"),
        ({"APP_SERVICE_NAME": "a\nb"}, "service_name: 'a\\nb' from environment APP_SERVICE_NAME"),
        ({"APP_IDEMPOTENCY_STORE": "files"}, "accepted is one of database, redis"),
    ],
)
def test_bad_configuration_is_named_with_what_is_accepted(
    load: Any, environ: dict[str, str], message: str
) -> None:
    text = refusal(load, environ)
    assert text.startswith("bad configuration: ")
    assert message in text


def test_one_message_names_everything_that_is_wrong(load: Any) -> None:
    text = refusal(
        load,
        {
            "APP_PORT": "x",
            "APP_LOG_LEVEL": "x",
            "ASYNC_DATABASE_URL": "mysql://h",
            "CELERY_TASK_ACKS_LATE": "0",
        },
    )
    assert text.splitlines()[0] == "bad configuration, 4 problems:"
    subjects = [line.strip().partition(":")[0] for line in text.splitlines()[1:]]
    assert subjects == ["log_level", "port", "async_database_url", "celery_task_acks_late"]


@pytest.mark.parametrize(
    "environ",
    [
        {"APP_DEBUG": "1"},
        {"CELERY_TASK_ACKS_LATE": "0"},
        {"CELERY_TASK_ALWAYS_EAGER": "1"},
        {"RABBITMQ_HOST": "rabbitmq"},
        {"APP_SECRET_KEY": "secret"},
        {"APP_CORS_ALLOW_ORIGINS": "*"},
    ],
)
@pytest.mark.parametrize("env", ["dev", "test"])
def test_the_strict_rules_are_soft_in_dev_and_test(
    load: Any, env: str, environ: dict[str, str]
) -> None:
    assert load({"APP_ENV": env, **environ}).is_dev


def test_what_is_never_sound_is_refused_in_dev_too(load: Any) -> None:
    two_keys = {"APP_ENV": "dev", "JWT_SECRET_KEY": KEY, "JWT_JWKS_URL": "https://x/jwks"}
    assert "only one of them may be set" in refusal(load, two_keys)
    assert "it is 5 bytes" in refusal(load, {"APP_ENV": "dev", "JWT_SECRET_KEY": "short"})


def test_default_credentials_are_fine_on_this_machine(load: Any) -> None:
    settings = load({"RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:5699"})
    assert settings.rabbitmq_management_url == "http://guest:guest@127.0.0.1:15672"


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("dev", "dev"),
        ("Development", "dev"),
        ("stg", "stg"),
        ("staging", "stg"),
        ("production", "prod"),
        ("TEST", "test"),
    ],
)
def test_environments_are_understood_in_their_usual_spellings(
    load: Any, text: str, env: str
) -> None:
    assert load({"FLASK_ENV": text}).env == env
    assert load({"FLASK_ENV": "production", "APP_ENV": text}).env == env


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes", "on"])
def test_what_says_yes(load: Any, text: str) -> None:
    assert load({"APP_AUTH_REQUIRED": text, "SQL_ECHO": text}).sql_echo is True


@pytest.mark.parametrize("text", ["0", "false", "no", "Off"])
def test_what_says_no(load: Any, text: str) -> None:
    assert load({"APP_METRICS_ENABLED": text}).metrics_enabled is False


def test_defaults_are_the_strict_ones() -> None:
    settings = Settings()
    assert (settings.env, settings.is_dev, settings.debug) == ("prod", False, False)
    assert (settings.host, settings.port, settings.workers) == ("0.0.0.0", 8000, 1)  # noqa: S104
    assert (settings.auth_required, settings.rate_limit) == (True, "300/minute")
    assert (settings.drain_delay_seconds, settings.grace_seconds) == (5.0, 25.0)
    assert settings.log_format == "json"
    assert settings.api_primary_path == "api/v1"
    assert settings.body_limit_bytes == 1024 * 1024
    assert (settings.jwt_access_ttl_seconds, settings.jwt_refresh_ttl_seconds) == (900, 1_209_600)
    assert settings.celery_task_profile == "redeliver"
    assert (settings.config_path, settings.secret_key) == (None, None)
    assert (settings.loop_sleep_seconds, settings.idempotency_ttl_seconds) == (5.0, 86_400)
    assert settings.commit == "unknown"
    assert settings.instance
    assert settings.version


def test_dev_has_defaults_of_its_own() -> None:
    settings = Settings(env="dev")
    assert (settings.host, settings.auth_required, settings.rate_limit) == (
        "127.0.0.1",
        False,
        None,
    )
    assert settings.drain_delay_seconds == 0.0


def test_a_default_of_dev_can_be_overruled(load: Any) -> None:
    settings = load({"APP_ENV": "dev", "APP_RATE_LIMIT": "5/second", "APP_AUTH_REQUIRED": "1"})
    assert (settings.rate_limit, settings.auth_required) == ("5/second", True)


def test_a_rate_limit_can_be_switched_off(load: Any) -> None:
    assert load({"APP_RATE_LIMIT": "none"}).rate_limit is None
    assert load({"APP_RATE_LIMIT": " 10 / Minutes "}).rate_limit == "10/minute"
    assert rate("10/hour") == (10, 3600)


def test_log_format_is_text_on_a_terminal_in_dev(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.isatty", lambda _: True)
    assert load({"APP_ENV": "dev"}).log_format == "text"
    assert load({"APP_ENV": "prod"}).log_format == "json"
    monkeypatch.setattr("os.isatty", lambda _: False)
    assert load({"APP_ENV": "dev"}).log_format == "json"


def test_tokens_name_the_service_unless_told_otherwise(load: Any) -> None:
    settings = load({"APP_NAME": "orders", "JWT_AUDIENCE": "shop"})
    assert (settings.jwt_issuer, settings.jwt_audience) == ("orders", "shop")


def test_a_key_on_one_line_gets_its_lines_back(load: Any) -> None:
    settings = load(
        {"JWT_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\\nabc\\n-----END PRIVATE KEY-----"}
    )
    assert settings.need("jwt_private_key").get_secret_value() == (
        "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"
    )


class TestServers:
    @pytest.mark.parametrize(
        "name", ["APP_DATABASE_URL", "DATABASE_URL", "SQLALCHEMY_DATABASE_URI"]
    )
    def test_a_database_url_serves_both_worlds(self, load: Any, name: str) -> None:
        settings = load({name: "postgres://u:p@h:1/d"})
        assert settings.database_url == "postgresql+psycopg://u:p@h:1/d"
        assert settings.async_database_url == "postgresql+asyncpg://u:p@h:1/d"

    def test_the_async_url_alone_serves_both_worlds_too(self, load: Any) -> None:
        settings = load({"ASYNC_DATABASE_URL": "postgresql+asyncpg://h/d"})
        assert settings.database_url == "postgresql+psycopg://h/d"
        assert settings.async_database_url == "postgresql+asyncpg://h/d"
        assert settings.origin("database_url") == "environment ASYNC_DATABASE_URL"

    def test_both_urls_may_differ(self, load: Any) -> None:
        settings = load({"DATABASE_URL": "sqlite:///a", "ASYNC_DATABASE_URL": "sqlite:///b"})
        assert settings.async_database_url == "sqlite+aiosqlite:///b"
        assert settings.database_url == "sqlite:///a"

    @pytest.mark.parametrize(
        ("environ", "url"),
        [
            ({"DATABASE_HOST": "db"}, "postgres@db:5432/postgres"),
            ({"DATABASE_NAME": "orders"}, "postgres@localhost:5432/orders"),
            (
                {"DATABASE_USER": "u@x", "DATABASE_PASS": "p/w", "DATABASE_PORT": "1"},
                "u%40x:p%2Fw@localhost:1/u%40x",
            ),
            (
                {
                    "POSTGRES_HOST": "pg",
                    "POSTGRES_PORT": "2",
                    "POSTGRES_USER": "u",
                    "POSTGRES_PASSWORD": "p",
                    "POSTGRES_DB": "d",
                },
                "u:p@pg:2/d",
            ),
            ({"DATABASE_HOST": "::1"}, "postgres@[::1]:5432/postgres"),
            ({"DATABASE_HOST": "first", "POSTGRES_HOST": "second"}, "postgres@first:5432/postgres"),
        ],
    )
    def test_a_database_may_be_named_by_its_parts(
        self, load: Any, environ: dict[str, str], url: str
    ) -> None:
        assert load(environ).database_url == f"postgresql+psycopg://{url}"

    def test_a_whole_url_wins_over_parts_beside_it(self, load: Any) -> None:
        settings = load({"DATABASE_URL": "sqlite:///x.db", "DATABASE_HOST": "db"})
        assert settings.database_url == "sqlite:///x.db"

    def test_rabbitmq_may_be_named_by_its_parts(self, load: Any) -> None:
        settings = load({"RABBITMQ_USER": "u", "RABBITMQ_PASSWORD": "p#1"})
        assert settings.rabbitmq_url == "amqp://u:p%231@localhost:5672"
        assert settings.rabbitmq_management_url == "http://u:p%231@localhost:15672"

    def test_a_management_url_takes_the_brokers_login(self, load: Any) -> None:
        settings = load(
            {"RABBITMQ_URL": "amqp://u:p@mq", "RABBITMQ_MANAGEMENT_URL": "https://m.example"}
        )
        assert settings.rabbitmq_management_url == "https://u:p@m.example"

    def test_results_may_be_named_by_their_parts(self, load: Any) -> None:
        settings = load(
            {
                "RESULT_BACKEND_URL": "pg",
                "RESULT_BACKEND_PORT": "5433",
                "RESULT_BACKEND_USER": "u",
                "RESULT_BACKEND_PASSWORD": "p@w",
                "RESULT_BACKEND_DATABASE": "results",
            }
        )
        assert settings.celery_result_backend == ("db+postgresql+psycopg://u:p%40w@pg:5433/results")

    @pytest.mark.parametrize(
        ("setting", "password"),
        [
            ("celery_result_backend", "RESULT_BACKEND_PASS"),
            ("celery_result_backend", "RESULT_BACKEND_PASSWORD"),
            ("database_url", "DATABASE_PASS"),
            ("database_url", "DATABASE_PASSWORD"),
            ("database_url", "POSTGRES_PASS"),
            ("database_url", "POSTGRES_PASSWORD"),
            ("rabbitmq_url", "RABBITMQ_PASS"),
            ("rabbitmq_url", "RABBITMQ_PASSWORD"),
        ],
    )
    def test_a_password_has_two_names(self, load: Any, setting: str, password: str) -> None:
        prefix = password.rpartition("_")[0]
        user, other = f"{prefix}_USER", f"{prefix}_PASSWORD"
        for given in ({password: "p@w"}, {password: "p@w", other: "p@w"}):
            url = getattr(load({user: "u", **given}), setting)
            assert "://u:p%40w@localhost:" in url

    def test_two_passwords_under_the_two_names_are_refused(self, load: Any) -> None:
        names = ("RESULT_BACKEND_PASS", "RESULT_BACKEND_PASSWORD")
        for unlike in (names, names[::-1], ("DATABASE_PASS", "DATABASE_PASSWORD")):
            with pytest.raises(Misconfigured) as refused:
                load({unlike[0]: "canary-one", unlike[1]: "canary-two"})
            for name in unlike:
                assert f"{name} (environment {name})" in str(refused.value)
            assert "leave one of them out" in str(refused.value)
            assert "canary" not in str(refused.value)

    def test_the_second_name_of_a_password_may_be_that_of_a_file(
        self, load: Any, tmp_path: Path
    ) -> None:
        file = tmp_path / "of-the-results"
        file.write_text("from a file\n")
        environ = {"RESULT_BACKEND_URL": "pg", "RESULT_BACKEND_PASS_FILE": str(file)}
        assert ":from%20a%20file@pg:" in load(environ).celery_result_backend
        with pytest.raises(Misconfigured, match=r"RESULT_BACKEND_PASS \(secret file "):
            load(environ | {"RESULT_BACKEND_PASSWORD": "another"})

    def test_nothing_is_named_by_default(self) -> None:
        settings = Settings()
        for name in ("database_url", "async_database_url", "redis_url", "rabbitmq_url"):
            assert getattr(settings, name) is None
        assert settings.idempotency_store is None

    def test_keys_are_kept_where_there_is_something_to_keep_them_in(self) -> None:
        assert Settings(database_url="sqlite:///x").idempotency_store == "database"
        assert Settings(redis_url="redis://h").idempotency_store == "redis"

    def test_the_queue_is_called_by_callers_and_server_alike(self, load: Any) -> None:
        assert load({"QUEUE_NAME": "q"}).data_queue_name == "q"
        assert load({"QUEUE_NAME": "q", "DATA_QUEUE_NAME": "d"}).data_queue_name == "d"


class TestNeed:
    def test_what_is_there_is_returned(self) -> None:
        assert Settings(redis_url="redis://h").need("redis_url") == "redis://h"

    def test_what_is_missing_names_its_variables(self) -> None:
        with pytest.raises(Misconfigured) as refused:
            Settings().need("rabbitmq_url")
        assert refused.value.exit_code == 78
        assert str(refused.value) == (
            "bad configuration: rabbitmq_url: it is needed here and nothing names it (accepted is "
            "amqp://, amqps://, redis://, rediss:// or memory://): set APP_RABBITMQ_URL or "
            "RABBITMQ_URL, or the parts RABBITMQ_HOST, RABBITMQ_PORT, RABBITMQ_USER, "
            "RABBITMQ_PASSWORD or RABBITMQ_PASS, or start with `mainstay dev`, which brings its own"
        )

    def test_a_missing_secret_names_its_variables(self) -> None:
        with pytest.raises(Misconfigured, match="set APP_JWT_SECRET_KEY or JWT_SECRET_KEY"):
            Settings().need("jwt_secret_key")

    def test_all_that_is_missing_is_named_at_once(self) -> None:
        with pytest.raises(Misconfigured) as refused:
            Settings(redis_url="redis://h").need("redis_url", "secret_key", "database_url")
        assert "FLASK_SECRET_KEY" in str(refused.value)
        assert "SQLALCHEMY_DATABASE_URI" in str(refused.value)
        assert "REDIS_URL" not in str(refused.value)

    def test_a_name_that_is_no_setting_is_a_mistake_in_the_program(self) -> None:
        with pytest.raises(KeyError, match="did you mean 'redis_url'"):
            Settings().need("redis_ulr")


class Accounts(mainstay.Settings, prefix="SERVICE_"):
    service_name: str = "accounts"
    rpc_deadline_seconds: float = Field(5.0, gt=0, description="How long a lookup may take.")
    partner_token: SecretStr | None = None
    regions: tuple[str, ...] = ("eu",)
    weights: dict[str, int] = Field(default_factory=dict)
    signing_key: str = ""
    token_count: int = 0


class Books(mainstay.Settings):
    broker_schemes = frozenset({"redis", "rediss"})
    shelf: str


class TestAServicesOwn:
    def test_its_prefix_is_read_and_no_other(self, load: Any) -> None:
        environ = {"SERVICE_PORT": "1", "APP_PORT": "2", "SERVICE_RPC_DEADLINE_SECONDS": "0.5"}
        settings = load(environ, kind=Accounts)
        assert (settings.port, settings.rpc_deadline_seconds) == (1, 0.5)
        assert load(environ).port == 2

    def test_a_new_default_is_read_where_the_old_one_was(self, load: Any) -> None:
        assert Accounts.variables("service_name") == (
            "SERVICE_SERVICE_NAME",
            "SERVICE_NAME",
            "OTEL_SERVICE_NAME",
        )
        assert load(kind=Accounts).service_name == "accounts"
        assert load({"OTEL_SERVICE_NAME": "x"}, kind=Accounts).service_name == "x"

    def test_lists_and_objects_are_read_from_variables(self, load: Any) -> None:
        environ = {"SERVICE_REGIONS": "eu, us", "SERVICE_WEIGHTS": '{"eu": 1}'}
        settings = load(environ, kind=Accounts)
        assert (settings.regions, settings.weights) == (("eu", "us"), {"eu": 1})
        assert load({"SERVICE_REGIONS": '["a,b"]'}, kind=Accounts).regions == ("a,b",)

    def test_its_fields_are_checked_like_the_rest(self, load: Any) -> None:
        environ = {"SERVICE_RPC_DEADLINE_SECONDS": "0", "SERVICE_WEIGHTS": "{"}
        text = refusal(load, environ, kind=Accounts)
        assert "rpc_deadline_seconds: '0' from environment SERVICE_RPC_DEADLINE_SECONDS" in text
        assert "accepted is a number above 0" in text
        assert "weights: '{' from environment SERVICE_WEIGHTS: not accepted" in text

    def test_a_field_without_a_default_must_be_named(self, load: Any) -> None:
        text = refusal(load, {"APP_PORT": "x"}, kind=Books)
        assert "shelf: it is needed here and nothing names it: set APP_SHELF" in text
        assert "port: 'x'" in text
        assert load({"APP_SHELF": "a"}, kind=Books).shelf == "a"

    def test_it_may_narrow_its_broker(self, load: Any) -> None:
        text = refusal(load, {"APP_SHELF": "a", "CELERY_BROKER_URL": "amqp://u:p@h"}, kind=Books)
        assert "accepted is redis:// or rediss://" in text
        environ = {"APP_SHELF": "a", "CELERY_BROKER_URL": "redis://h"}
        assert load(environ, kind=Books).celery_broker_url == "redis://h"


class Warehouse(Settings):
    low: Annotated[int, Field(ge=0, lt=10)] = 0
    high: Annotated[int, Field(le=9)] = 9
    label: Annotated[str, Field(min_length=2)] = "ab"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


class TestAServicesOwnRules:
    def test_a_rule_over_several_settings_is_bad_configuration_too(self, load: Any) -> None:
        text = refusal(load, {"APP_LOW": "9", "APP_HIGH": "1"}, kind=Warehouse)
        assert text == "bad configuration: Warehouse: low must not be above high"

    def test_limits_of_every_kind_are_put_into_words(self, load: Any) -> None:
        environ = {"APP_LOW": "10", "APP_HIGH": "10", "APP_LABEL": "a"}
        text = refusal(load, environ, kind=Warehouse)
        assert "low: '10' from environment APP_LOW" in text
        assert "accepted is a whole number from 0 and below 10" in text
        assert "accepted is a whole number at most 9" in text
        assert "accepted is text of at least 2 characters" in text
        assert load({"APP_LABEL": "abc"}, kind=Warehouse).label == "abc"

    def test_a_secret_file_that_cannot_be_read_is_not_missing_as_well(self, load: Any) -> None:
        text = refusal(load, {"APP_SHELF_FILE": "gone"}, kind=Books)
        assert text.count("shelf: ") == 1
        assert "cannot be read" in text

    @pytest.mark.parametrize("prefix", ["service_", "SERVICE", "", "1_"])
    def test_a_prefix_is_capitals_and_an_underscore(self, prefix: str) -> None:
        with pytest.raises(TypeError, match="capitals that end in an underscore"):
            new_class("Wrong", (Settings,), {"prefix": prefix})


class TestByHand:
    def test_a_value_that_does_not_fit_is_refused_alike(self) -> None:
        with pytest.raises(
            Misconfigured, match="port: '80a' from a keyword argument: not accepted"
        ):
            Settings(port="80a")

    def test_a_name_that_is_no_setting_is_refused_with_a_suggestion(self) -> None:
        with pytest.raises(Misconfigured, match="prot: there is no such setting; did you mean"):
            Settings(prot=1)  # type: ignore[call-arg]

    def test_settings_do_not_change(self) -> None:
        settings = Settings()
        with pytest.raises(ValidationError, match="frozen"):
            settings.port = 1  # type: ignore[misc]


class TestSecrets:
    ENVIRON = {  # noqa: RUF012 - read only
        "DATABASE_URL": f"postgresql://u:{CANARY}@db/d",
        "REDIS_URL": f"redis://:{CANARY}@cache/0",
        "RABBITMQ_HOST": "mq",
        "RABBITMQ_USER": "u",
        "RABBITMQ_PASSWORD": CANARY,
        "CELERY_BROKER_URL": f"amqp://u:{CANARY}@mq1;amqp://u:{CANARY}@mq2",
        "CELERY_RESULT_BACKEND": f"redis://cache/1?password={CANARY}",
        "JWT_SECRET_KEY": CANARY * 3,
        "SERVICE_SECRET_KEY": CANARY,
        "SERVICE_PARTNER_TOKEN": CANARY,
        "SERVICE_SIGNING_KEY": CANARY,
    }

    def test_they_are_there_for_use(self, load: Any) -> None:
        settings = load(self.ENVIRON, kind=Accounts)
        assert CANARY in settings.database_url
        assert CANARY in settings.async_database_url
        assert CANARY in settings.rabbitmq_management_url
        assert settings.need("secret_key").get_secret_value() == CANARY
        assert settings.signing_key == CANARY
        assert settings.partner_token.get_secret_value() == CANARY

    def test_a_number_is_no_secret_whatever_its_name(self, load: Any) -> None:
        settings = load({"SERVICE_TOKEN_COUNT": "3"}, kind=Accounts)
        assert settings.shown("token_count") == str(settings.token_count) == "3"

    def test_a_blank_at_the_end_of_a_secret_is_kept(self, load: Any, secrets: Any) -> None:
        (secrets / "partner_token").write_text(" blank \n")
        settings = load({"APP_NAME": " x ", "SERVICE_NAME": " x "}, kind=Accounts)
        assert settings.partner_token.get_secret_value() == " blank "
        assert settings.service_name == "x"

    def test_they_are_never_shown(self, load: Any) -> None:
        settings = load(self.ENVIRON, kind=Accounts)
        shown = [settings.shown(name) for name in Accounts.model_fields]
        masked = json.dumps([settings.masked(name) for name in Accounts.model_fields])
        origins = [settings.origin(name) + settings.place(name) for name in Accounts.model_fields]
        for text in (repr(settings), str(settings), masked, *shown, *origins):
            assert CANARY not in text
        assert "postgresql+psycopg://u:***@db/d" in repr(settings)

    @pytest.mark.parametrize("name", sorted(ENVIRON))
    @pytest.mark.parametrize("wrap", ["{}", "x://{}", "amqp://u:p/{}@h:x", "{}\x00\x7f", "::{}@"])
    def test_they_are_in_no_message(self, load: Any, name: str, wrap: str) -> None:
        environ = {**self.ENVIRON, name: wrap.format(CANARY), "APP_PORT": "x", "SERVICE_PORT": "x"}
        with pytest.raises(Misconfigured) as refused:
            load(environ, kind=Accounts)
        assert CANARY not in str(refused.value)
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__ or refused.value.__context__ is None

    def test_they_are_in_no_message_about_a_file(self, load: Any, folder: Any) -> None:
        (folder / "config.yml").write_text(f"secret_key: [{CANARY}\n")
        (folder / ".env").write_text(f"'{CANARY}\n")
        assert CANARY not in refusal(load, {})


class Mailer(BaseModel):
    host: str = "mail"
    password: str
    spare: SecretStr | None = None


@dataclass
class Account:
    name: str
    api_token: str


class Login(TypedDict):
    user: str
    passwd: str


def _no_canary(value: str) -> str:
    if value.endswith("bad"):
        raise ValueError(f"{value} is no key")
    return value


class Nested(Settings):
    mailer: Mailer | None = None
    keys_of_partners: list[SecretStr] = Field(default_factory=list)
    mailers: dict[str, Mailer] = Field(default_factory=dict)
    accounts: tuple[Account, ...] = ()
    login: Login | None = None
    extras: dict[str, Any] = Field(default_factory=dict)
    deep: list[dict[str, list[Mailer]]] = Field(default_factory=list)
    pin: Secret[int] | None = None
    partition_key: str = "user-id"
    passphrase_secret: Annotated[str, AfterValidator(_no_canary)] = "x"


MAILER = {"host": "mx", "password": CANARY, "spare": CANARY}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("mailer", MAILER, '{"host": "mx", "password": "***", "spare": "***"}'),
        ("keys_of_partners", [CANARY, CANARY], "***,***"),
        ("mailers", {"a": MAILER}, '{"a": {"host": "mx", "password": "***", "spare": "***"}}'),
        (
            "accounts",
            [{"name": "ann", "api_token": CANARY}],
            '[{"name": "ann", "api_token": "***"}]',
        ),
        ("login", {"user": "ann", "passwd": CANARY}, '{"user": "ann", "passwd": "***"}'),
        (
            "extras",
            {"limit": 3, "db_password": CANARY, "url": f"redis://:{CANARY}@h"},
            '{"limit": 3, "db_password": "***", "url": "redis://:***@h"}',
        ),
        ("deep", [{"a": [MAILER]}], '[{"a": [{"host": "mx", "password": "***", "spare": "***"}]}]'),
        ("pin", 12345678, "***"),
    ],
)
class TestNestedSecrets:
    """What is inside of a setting is masked by its own name and type, wherever it is shown."""

    def test_they_are_shown_nowhere(self, load: Any, name: str, value: Any, shown: str) -> None:
        settings = load({f"APP_{name.upper()}": json.dumps(value)}, kind=Nested)
        assert settings.shown(name) == shown
        for text in (repr(settings), json.dumps(settings.masked(name)), str(settings)):
            assert CANARY not in text
            assert "12345678" not in text

    def test_they_are_in_no_example(self, name: str, value: Any, shown: str) -> None:
        kind: Any = Nested.model_fields[name].annotation
        default = TypeAdapter(kind).validate_python(value)
        changed: Any = {name: (Any, default)}
        given: type[Nested] = create_model("Given", __base__=Nested, **changed)
        for example in (dotenv_example(given), yaml_example(given)):
            assert shown in example
            assert CANARY not in example
            assert "12345678" not in example

    @pytest.mark.parametrize("wrap", ["{}", "[{}", "[{}, 5]", '{{"a": {}}}'])
    def test_they_are_in_no_refusal(
        self, load: Any, name: str, value: Any, shown: str, wrap: str
    ) -> None:
        given = wrap.format(json.dumps(value))
        said = refusal(load, {f"APP_{name.upper()}": given, "APP_PORT": "x"}, kind=Nested)
        assert CANARY not in said
        assert "12345678" not in said

    def test_they_are_hidden_in_logs(self, load: Any, name: str, value: Any, shown: str) -> None:
        settings = load({f"APP_{name.upper()}": json.dumps(value)}, kind=Nested)
        stream = io.BytesIO()
        Logs(settings, stream=stream).write("info", "x", f"sent {CANARY} to mx by user-id")
        said = stream.getvalue().decode()
        assert (CANARY in said) is (name == "pin")
        assert "to mx by user-id" in said


def test_the_reason_of_an_authors_rule_shows_no_secret(load: Any) -> None:
    said = refusal(load, {"APP_PASSPHRASE_SECRET": f"{CANARY}-bad"}, kind=Nested)
    assert "is no key" in said
    assert CANARY not in said
