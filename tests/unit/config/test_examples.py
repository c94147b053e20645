"""The files that are written from a settings class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values
from pydantic import Field, SecretStr

from mainstay.config import Settings, examples


class Orders(Settings, prefix="ORDERS_"):
    shelf: str = Field(description="Where orders lie.")
    partner_token: SecretStr | None = Field(None, description="The partner's password.")
    regions: tuple[str, ...] = ("eu", "us")


def uncommented(text: str) -> str:
    """The file with every setting set to its default."""
    lines = (line.removeprefix("#") for line in text.splitlines() if not line.startswith("# "))
    return "\n".join(lines)


def test_the_dotenv_example_has_every_setting_and_sets_none(load: Any, folder: Path) -> None:
    text = examples.dotenv_example(Orders)
    assert all(line.startswith("#") or not line for line in text.splitlines())
    for name in Orders.model_fields:
        assert f"\n#{Orders.variables(name)[0]}=" in text
    (folder / ".env").write_text(text)
    assert load({"ORDERS_SHELF": "a"}, kind=Orders).origin("port") == "default"


def test_the_dotenv_example_shows_the_defaults(folder: Path) -> None:
    (folder / "x").write_text(uncommented(examples.dotenv_example(Orders)))
    values = dotenv_values(folder / "x")
    assert values["ORDERS_PORT"] == "8000"
    assert values["ORDERS_REGIONS"] == "eu,us"
    assert values["ORDERS_PARTNER_TOKEN"] == ""
    assert values["DATABASE_HOST"] == "localhost"
    assert values["RABBITMQ_PASSWORD"] == ""
    assert values["ORDERS_HOST"] == ""  # depends on env


def test_the_yaml_example_loads_to_the_defaults(load: Any, folder: Path) -> None:
    text = examples.yaml_example(Orders)
    (folder / "config.yml").write_text(uncommented(text))
    keys = yaml.safe_load(uncommented(text)).keys()
    assert list(keys) == [name for name in Orders.model_fields if name != "config_path"]
    settings = load(shelf="a", kind=Orders)
    plain = Orders(shelf="a")
    for name in Orders.model_fields:
        assert getattr(settings, name) == getattr(plain, name)


def test_examples_describe_and_say_what_is_accepted() -> None:
    text = examples.dotenv_example(Orders)
    assert "# Where orders lie. It must be set.\n#ORDERS_SHELF=\n" in text
    assert "# Processes that serve HTTP. Accepted: a whole number from 1 up.\n" in text
    assert "# Also read from FLASK_ENV.\n#ORDERS_ENV=prod\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_examples_do_not_depend_on_the_environment(monkeypatch: Any) -> None:
    before = examples.dotenv_example(Settings), examples.yaml_example(Settings)
    monkeypatch.setenv("APP_PORT", "1")
    monkeypatch.setenv("HOSTNAME", "elsewhere")
    assert (examples.dotenv_example(Settings), examples.yaml_example(Settings)) == before


def test_the_reference_page_has_a_row_for_every_setting() -> None:
    text = examples.reference(Settings)
    for name, field in Settings.model_fields.items():
        assert f"| `{name}` | {field.description} |" in text
    assert "| `<PREFIX>ENV`, `FLASK_ENV` |" in text


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
