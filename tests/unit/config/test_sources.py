"""Where settings come from, and who wins."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mainstay.config import Settings, Sources
from mainstay.errors import Misconfigured
from mainstay.service import Service


def test_each_source_gives_way_to_the_one_before_it(load: Any, folder: Path, secrets: Path) -> None:
    def commit(environ: dict[str, str] | None = None) -> tuple[str, str]:
        settings = load(environ)
        return settings.commit, settings.origin("commit")

    assert commit() == ("unknown", "default")
    (folder / "config.yml").write_text("commit: from-yaml\n")
    assert commit() == ("from-yaml", "config.yml")
    (folder / ".env").write_text("APP_COMMIT=from-dotenv\n")
    assert commit() == ("from-dotenv", ".env")
    (secrets / "app_commit").write_text("from-secret\n")
    assert commit() == ("from-secret", f"secret file {secrets / 'app_commit'}")
    named = folder / "named"
    named.write_text("from-named-file\n")
    assert commit({"APP_COMMIT_FILE": str(named)}) == ("from-named-file", f"secret file {named}")
    environ = {"APP_COMMIT_FILE": str(named), "APP_COMMIT": "from-environment"}
    assert commit(environ) == ("from-environment", "environment APP_COMMIT")


def test_of_several_names_the_first_that_is_set_wins(load: Any) -> None:
    names = Settings.variables("service_name")
    assert names == ("APP_SERVICE_NAME", "APP_NAME", "SERVICE_NAME", "OTEL_SERVICE_NAME")
    environ = {name: name.lower() for name in names}
    for name in names:
        assert load(environ).service_name == name.lower()
        del environ[name]
    assert load(environ).service_name == "python-service"


def test_a_stronger_source_wins_under_whichever_name(load: Any, folder: Path) -> None:
    (folder / ".env").write_text("APP_DATABASE_URL=sqlite:///from-dotenv.db\n")
    settings = load({"SQLALCHEMY_DATABASE_URI": "sqlite:///from-environment.db"})
    assert settings.database_url == "sqlite:///from-environment.db"


def test_an_empty_value_names_nothing(load: Any, folder: Path, secrets: Path) -> None:
    (folder / ".env").write_text("APP_COMMIT=\n")
    (folder / "config.yml").write_text("commit:\n")
    (secrets / "app_commit").write_text("\n")
    settings = load({"APP_COMMIT": " "})
    assert (settings.commit, settings.origin("commit")) == ("unknown", "default")


def test_a_mounted_secret_may_be_called_like_its_setting(load: Any, secrets: Path) -> None:
    (secrets / "jwt_secret_key").write_text("k" * 16 + "0123456789abcdef\n")
    (secrets / "REDIS_URL").write_text("redis://:p@cache/0\n")
    settings = load({})
    assert settings.need("jwt_secret_key").get_secret_value() == "k" * 16 + "0123456789abcdef"
    assert settings.redis_url == "redis://:p@cache/0"


def test_a_password_from_a_secret_file_joins_a_host_from_the_environment(
    load: Any, secrets: Path
) -> None:
    (secrets / "database_pass").write_text("s3cr3t/with@marks\n")
    settings = load({"DATABASE_HOST": "db", "DATABASE_USER": "app", "DATABASE_NAME": "orders"})
    assert settings.database_url == (
        "postgresql+psycopg://app:s3cr3t%2Fwith%40marks@db:5432/orders"
    )
    assert "environment DATABASE_HOST" in settings.origin("database_url")
    assert "database_pass" in settings.origin("database_url")


def test_a_dotenv_file_may_quote_export_and_refer(load: Any, folder: Path) -> None:
    (folder / ".env").write_text(
        "# a comment\n"
        "export APP_COMMIT='with blanks'\n"
        'APP_VERSION="1.2"\n'
        "APP_INSTANCE=${APP_VERSION}-a  # behind\n"
    )
    settings = load()
    assert (settings.commit, settings.version, settings.instance) == (
        "with blanks",
        "1.2",
        "1.2-a",
    )


def test_another_yaml_file_may_be_named(load: Any, folder: Path) -> None:
    (folder / "config.yml").write_text("port: 1\n")
    (folder / "other.yml").write_text("port: 2\ncors_allow_origins: [https://a.example]\n")
    settings = load({"APP_CONFIG_PATH": "other.yml"})
    assert (settings.port, settings.origin("port")) == (2, "other.yml")
    assert settings.cors_allow_origins == ("https://a.example",)


def test_overrides_win_over_every_source(load: Any) -> None:
    settings = load({"APP_PORT": "1"}, port=2)
    assert (settings.port, settings.origin("port")) == (2, "given")


@pytest.mark.parametrize("read", [Settings, Settings.load, lambda **o: Settings.model_validate(o)])
def test_the_class_itself_reads_every_source(
    read: Any, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / ".env").write_text("APP_HOST=from-dotenv\nAPP_COMMIT=from-dotenv\n")
    (folder / "config.yml").write_text("workers: 3\ncommit: from-yaml\n")
    (folder / "key").write_text("0123456789abcdefghijklmnopqrstuv\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("APP_PORT", "4444")
    monkeypatch.setenv("APP_GRACE_SECONDS", "3")
    monkeypatch.setenv("JWT_SECRET_KEY_FILE", "key")
    settings = read(grace_seconds=4)
    assert (settings.port, settings.origin("port")) == (4444, "environment APP_PORT")
    assert (settings.host, settings.commit, settings.workers) == ("from-dotenv", "from-dotenv", 3)
    assert settings.need("jwt_secret_key").get_secret_value().startswith("0123456789")
    assert (settings.grace_seconds, settings.origin("grace_seconds")) == (4, "given")


def test_what_does_not_fit_is_refused_whoever_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "80a")
    with pytest.raises(Misconfigured, match=r"port: '80a' from environment APP_PORT.*\n.*workers"):
        Settings(workers=0)
    assert Settings(port=1).port == 1  # what is given is not looked for


def test_a_service_is_read_with_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ours(Settings, prefix="SHOP_"):
        basket_limit: int = 3

    monkeypatch.setenv("SHOP_PORT", "4444")
    monkeypatch.setenv("SHOP_BASKET_LIMIT", "7")
    monkeypatch.setenv("APP_PORT", "1")
    assert (Ours().port, Ours().basket_limit, Ours(basket_limit=1).basket_limit) == (4444, 7, 1)
    assert Service(Ours).settings.port == Service(Ours()).settings.port == 4444


def test_a_given_server_takes_the_place_of_all_that_names_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASYNC_DATABASE_URL", "postgresql+asyncpg://other/db")
    monkeypatch.setenv("JWT_PRIVATE_KEY", "-----BEGIN PRIVATE KEY-----")
    settings = Settings(
        env="test", database_url="sqlite:///a.db", jwt_secret_key=SecretStr("k" * 32)
    )
    assert settings.async_database_url == "sqlite+aiosqlite:///a.db"
    assert settings.jwt_private_key is None


def test_no_sources_are_values_given_and_defaults(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / ".env").write_text("APP_PORT=1\n")
    (folder / "config.yml").write_text("port: 2\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("APP_PORT", "3")
    settings = Settings.load_from(Sources.none(), env="test")
    assert (settings.port, settings.env) == (8000, "test")


def test_loading_reads_this_process_own_sources(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "config.yml").write_text("port: 2\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("APP_COMMIT", "abc")
    monkeypatch.setenv("MAINSTAY_EMBEDDED", "0")
    settings = Settings.load(env="test")
    assert (settings.port, settings.commit, settings.env) == (2, "abc", "test")
    assert not Sources.here().embedded


class TestBesideARunningDev:
    """What ``mainstay dev`` gave to the service counts for a second terminal."""

    KEY = "an-embedded-key-of-more-than-32-bytes"

    @pytest.fixture(autouse=True)
    def dev(self, folder: Path) -> Any:
        state = folder / ".mainstay"
        state.mkdir()
        given = {
            "APP_ENV": "dev",
            "DATABASE_URL": "postgresql://app@127.0.0.1:5999/data",
            "ASYNC_DATABASE_URL": "postgresql+asyncpg://app@127.0.0.1:5999/data",
            "REDIS_URL": "redis://127.0.0.1:6999/0",
            "JWT_SECRET_KEY": self.KEY,
        }
        services = {"data": {"path": str(folder), "env": given, "processes": {}}}
        (state / "dev.json").write_text(json.dumps({"pid": 1, "services": services}))
        lock = os.open(state / "lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        os.close(lock)

    def test_its_servers_are_found(self, load: Any) -> None:
        settings = load(embedded=True)
        assert settings.env == "dev"
        assert settings.redis_url == "redis://127.0.0.1:6999/0"
        assert settings.origin("redis_url") == "embedded (mainstay dev)"

    def test_every_other_source_wins_over_them(self, load: Any, folder: Path) -> None:
        (folder / "config.yml").write_text("redis_url: redis://elsewhere\n")
        assert load(embedded=True).redis_url == "redis://elsewhere"

    def test_they_are_left_alone_where_env_is_not_dev(self, load: Any) -> None:
        assert load({"APP_ENV": "prod"}, embedded=True).redis_url is None

    def test_they_are_left_alone_when_told_so(self, load: Any) -> None:
        assert load(embedded=False).redis_url is None

    def test_a_database_of_ones_own_is_not_mixed_with_theirs(self, load: Any) -> None:
        settings = load({"DATABASE_URL": "postgresql://me@own/db"}, embedded=True)
        assert settings.async_database_url == "postgresql+asyncpg://me@own/db"

    def test_a_generated_key_gives_way_to_one_that_is_named(self, load: Any) -> None:
        settings = load({"JWT_JWKS_URL": "https://login.example/jwks.json"}, embedded=True)
        assert settings.jwt_secret_key is None
        settings = load(embedded=True)
        assert settings.need("jwt_secret_key").get_secret_value() == self.KEY


def test_an_unknown_key_in_the_yaml_file_is_refused_with_a_suggestion(
    load: Any, folder: Path
) -> None:
    (folder / "config.yml").write_text("log_level: INFO\nlog_formt: text\nzzz: 1\n")
    with pytest.raises(Misconfigured) as refused:
        load()
    assert "config.yml: line 2: 'log_formt' is no setting; did you mean 'log_format'?" in str(
        refused.value
    )
    assert "config.yml: line 3: 'zzz' is no setting" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port: [1\n", "config.yml: line 2: the file is not YAML that can be read"),
        ("- port\n", "config.yml: the file is not a mapping of settings to values"),
        ("port: 1\nport: 2\n", "config.yml: line 2: port is there already, in line 1"),
        ("config_path: x\n", "config.yml: line 1: 'config_path' is no setting"),
        ("port: !!python/object:os.system 1\n", "config.yml: line 1: the file is not YAML"),
    ],
)
def test_a_yaml_file_that_cannot_be_read_is_refused(
    load: Any, folder: Path, text: str, message: str
) -> None:
    (folder / "config.yml").write_text(text)
    with pytest.raises(Misconfigured, match="bad configuration") as refused:
        load()
    assert message in str(refused.value)


def test_a_yaml_file_may_be_empty(load: Any, folder: Path) -> None:
    (folder / "config.yml").write_text("# nothing yet\n")
    assert load().port == 8000


def test_a_yaml_file_that_is_named_must_exist(load: Any) -> None:
    with pytest.raises(Misconfigured, match=r"gone\.yml: the file cannot be read: No such file"):
        load({"APP_CONFIG_PATH": "gone.yml"})


def test_a_secret_file_that_is_named_must_exist(load: Any, folder: Path) -> None:
    with pytest.raises(Misconfigured) as refused:
        load({"JWT_SECRET_KEY_FILE": str(folder / "gone")})
    assert "jwt_secret_key: secret file" in str(refused.value)
    assert "named by JWT_SECRET_KEY_FILE cannot be read: No such file" in str(refused.value)


def test_a_file_that_is_no_text_is_refused(load: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(b"\xff\xfe")
    (folder / ".env").write_bytes(b"\xff\xfe")
    (folder / "config.yml").write_bytes(b"\xff\xfe")
    with pytest.raises(Misconfigured) as refused:
        load({"APP_SECRET_KEY_FILE": "secret"})
    assert str(refused.value).count("it is not UTF-8 text") == 3


def test_a_line_of_the_dotenv_file_that_cannot_be_read_is_named(load: Any, folder: Path) -> None:
    (folder / ".env").write_text("APP_PORT=1\n\n'broken\nAPP_COMMIT=x\n")
    with pytest.raises(Misconfigured, match=r"\.env: line 3 is not of the form NAME=value"):
        load()


def test_a_message_says_which_line_of_which_file(load: Any, folder: Path) -> None:
    (folder / ".env").write_text("# first\n\nAPP_PORT=many\n")
    (folder / "config.yml").write_text("commit: x\n\nworkers: none\n")
    with pytest.raises(Misconfigured) as refused:
        load()
    assert "port: 'many' from .env line 3, APP_PORT: not accepted" in str(refused.value)
    assert "workers: 'none' from config.yml line 3, workers: not accepted" in str(refused.value)
