"""Files written from a settings class: ``.env.example``, ``config.yml.example``, a reference page.

They depend on the class alone, not on the machine or on what is set, so they can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

from mainstay.config import fields

if TYPE_CHECKING:
    from mainstay.config.settings import Settings

__all__ = ["DOTENV_NAME", "YAML_NAME", "dotenv_example", "reference", "yaml_example"]

DOTENV_NAME = ".env.example"
YAML_NAME = "config.yml.example"
_WIDTH = 100
_WRITTEN = (
    "Written by `mainstay config --write-examples`: change the settings class, not this file."
)

_REFERENCE = """\
# Settings

<!-- {written} -->

Every process reads its settings once, at its start, from these sources.
The first that names a setting wins:

1. the environment;
2. a secret file: the one that `<NAME>_FILE` names, or `/run/secrets/<name>`;
3. `.env` in the folder that the process starts in;
4. the YAML file: `config.yml` there, or what `config_path` names; its keys are the settings' names;
5. the servers of a running `mainstay dev`, unless `env` says that this is not `dev`, or
   `MAINSTAY_EMBEDDED=0` that they are not wanted;
6. the default.

Of several variables of one setting the first that is found wins.
A variable that is empty names nothing.
`<PREFIX>` stands for the service's prefix: `{prefix}`, unless its class chooses another.

Something that does not fit stops the start with exit code 78.
One message then names each bad setting, where it was read and what is accepted.
`mainstay config` shows what a service has read, and from where.

`Settings()`, of the service's own class too, reads all of them, and keyword arguments win:
`Settings(port=0)`.
For tests, `Settings.load_from(Sources.none(), env="test")` reads none.
"""


def dotenv_example(settings: type[Settings]) -> str:
    """Return a ``.env`` file with every setting, each commented out, at its default."""
    lines = _comment(
        f"Settings as environment variables. {_WRITTEN}",
        "Copy this file to .env and uncomment what is to differ from its default. A secret is "
        "better kept in a file that <NAME>_FILE names, or in /run/secrets.",
    )
    for name, field in settings.model_fields.items():
        first, *others = settings.variables(name)
        default = fields.default_text(name, field)
        is_literal = fields.has_literal_default(field)
        lines += ["", *_comment(*_about(settings, name))]
        if others:
            lines += _comment(f"Also read from {', '.join(others)}.")
        lines.append(f"#{first}={default if is_literal else ''}")
        for group in fields.groups(field):
            lines += _comment("Or its parts; what is left out takes the default here.")
            for alias in group.passwords[1:]:
                lines += _comment(f"The password is also read from {alias}.")
            lines += [f"#{variable}={value}" for variable, value in group.defaults]
    return "\n".join(lines) + "\n"


def yaml_example(settings: type[Settings]) -> str:
    """Return a ``config.yml`` file with every setting, each commented out, at its default."""
    lines = _comment(
        f"Settings as a YAML file. {_WRITTEN}",
        "Copy this file to config.yml and uncomment what is to differ from its default. The "
        "environment, secret files and .env win over it.",
    )
    for name, field in settings.model_fields.items():
        if name == "config_path":
            continue  # says where this file is
        lines += ["", *_comment(*_about(settings, name))]
        default = fields.default_text(name, field) if fields.has_literal_default(field) else ""
        lines.append(f"#{name}: {default}".rstrip())
    return "\n".join(lines) + "\n"


def reference(settings: type[Settings]) -> str:
    """Return a page in Markdown that lists every setting."""
    lines = [
        _REFERENCE.format(written=_WRITTEN, prefix=settings.env_prefix),
        "| setting | what it is | accepted | default | read from |",
        "|---|---|---|---|---|",
    ]
    for name, field in settings.model_fields.items():
        variables = fields.names(name, field, fields.PREFIX)
        ways = ", ".join(f"`{variable}`" for variable in variables)
        for group in fields.groups(field):
            parts = (" or ".join(f"`{each}`" for each in names) for names in group.parts)
            ways += f", or the parts {', '.join(parts)}"
        default = fields.default_text(name, field)
        if default and fields.has_literal_default(field):
            default = f"`{default}`"
        cells = (f"`{name}`", field.description or "", fields.accepts(field), default, ways)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _about(settings: type[Settings], name: str) -> Iterator[str]:
    field = settings.model_fields[name]
    words = [field.description.rstrip(".") + "."] if field.description else []
    if (accepted := fields.accepts(field)) != "text":
        words.append(f"Accepted: {accepted}.")
    default = fields.default_text(name, field)
    if field.is_required():
        words.append("It must be set.")
    elif default and not fields.has_literal_default(field):
        words.append(f"Default: {default}.")
    yield " ".join(words)


def _comment(*paragraphs: str) -> list[str]:
    return [
        f"# {line}"
        for paragraph in paragraphs
        for line in wrap(paragraph, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    ]
