"""Where settings come from, in their order: the first source that names one wins.

1. the environment
2. secret files: the file that ``<NAME>_FILE`` names, then ``/run/secrets/<name>``
3. ``.env`` in the folder the process starts in
4. the YAML file (``config.yml`` there, or ``config_path``)
5. what a running ``mainstay dev`` gave to this service

A variable, a file or a key that is empty names nothing.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mainstay.config.messages import Problem, did_you_mean

__all__ = ["EMBEDDED", "Found", "Source", "Sources"]

EMBEDDED = "embedded (mainstay dev)"
_SECRETS = Path("/run/secrets")


@dataclass(frozen=True, slots=True)
class Found:
    """A value as it was read.

    Args:
        value: Text, or what YAML made of it.
        origin: The source, for people: ``environment APP_PORT``.
        place: The same, as exact as it is known: ``.env line 3, APP_PORT``.
    """

    value: Any = field(repr=False)
    origin: str
    place: str


class Source(Protocol):
    """One place that settings are read from."""

    def find(self, setting: str, names: Sequence[str]) -> Found | None:
        """Return the value under the first of *names* (or *setting*) that this place has."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """All that a process can be told from outside, and nothing read yet.

    Args:
        directory: Where ``.env`` and ``config.yml`` are looked for.
        environ: The environment's variables.
        secrets: The folder of secret files.
        embedded: Is a running ``mainstay dev`` asked? Not where ``MAINSTAY_EMBEDDED=0`` says no.
    """

    directory: Path
    environ: Mapping[str, str]
    secrets: Path = _SECRETS
    embedded: bool = True

    @classmethod
    def here(cls) -> Sources:
        """Return the sources of this process: its environment and its working directory."""
        embedded = os.environ.get("MAINSTAY_EMBEDDED", "1") != "0"
        return cls(Path.cwd(), os.environ, embedded=embedded)

    @classmethod
    def none(cls) -> Sources:
        """Return sources that name nothing, for settings of given values and defaults alone."""
        nowhere = Path(os.devnull)
        return cls(nowhere, {}, secrets=nowhere, embedded=False)

    def open(self, problems: list[Problem]) -> list[Source]:
        """Return the sources that need no other setting, in their order."""
        return [
            Variables(self.environ, "environment"),
            SecretFiles(self.environ, self.secrets, self.directory, problems),
            *dotenv(self.directory / ".env", problems),
        ]

    def file(
        self, path: str | None, known: Sequence[str], problems: list[Problem]
    ) -> Iterator[Source]:
        """Yield the YAML file: the one that is named, which must exist, or ``config.yml``."""
        shown = path or "config.yml"
        file = self.directory / shown
        if path is None and not file.is_file():
            return
        yield from yaml_file(file, shown, known, problems)

    def running(self, service: str) -> Iterator[Source]:
        """Yield what a running ``mainstay dev`` gave to *service*, where there is one."""
        if not self.embedded:
            return
        from mainstay.devfile import find  # only a machine with a project of ours needs it

        if given := find(self.directory, service):
            yield Variables(given, EMBEDDED, named=False)


class Variables:
    """Names and texts, such as the environment's."""

    def __init__(
        self,
        values: Mapping[str, str],
        origin: str,
        *,
        named: bool = True,
        place: Callable[[str], str] | None = None,
    ) -> None:
        self._values = values
        self._origin = origin
        self._named = named
        self._place = place

    def find(self, setting: str, names: Sequence[str]) -> Found | None:
        for name in names:
            if (text := self._values.get(name, "")).strip():
                origin = f"{self._origin} {name}" if self._named else self._origin
                place = self._place(name) if self._place else f"{self._origin} {name}"
                return Found(text, origin, place)
        return None


class SecretFiles:
    """Files that hold one value each, as Docker and Kubernetes mount them."""

    def __init__(
        self, environ: Mapping[str, str], folder: Path, start: Path, problems: list[Problem]
    ) -> None:
        self._environ = environ
        self._start = start
        self._problems = problems
        try:
            self._files = {path.name.lower(): path for path in sorted(folder.iterdir())}
        except OSError:
            self._files = {}

    def find(self, setting: str, names: Sequence[str]) -> Found | None:
        for name in names:
            if path := self._environ.get(f"{name}_FILE", "").strip():
                found = self._read(self._start / path, f"named by {name}_FILE", setting or name)
                if found is not None:
                    return found
        # A mounted secret is usually called like the setting itself, whatever the prefix.
        for name in (*names, setting):
            path_of_secret = self._files.get(name.lower())
            if path_of_secret is not None and path_of_secret.is_file():
                found = self._read(path_of_secret, "", setting or name)
                if found is not None:
                    return found
        return None

    def _read(self, path: Path, named_by: str, subject: str) -> Found | None:
        place = f"secret file {path}"
        detail = f"{place}, {named_by}" if named_by else place
        try:
            text = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            problem = Problem(subject, f"{detail} cannot be read: {reason}", frozenset({subject}))
            self._problems.append(problem)
            return None
        return Found(text, place, detail) if text.strip() else None


def dotenv(path: Path, problems: list[Problem]) -> Iterator[Source]:
    """Yield the variables of a ``.env`` file; a line that cannot be read is a problem."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        problems.append(Problem(".env", f"{path} cannot be read: {reason}"))
        return
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    lines: dict[str, int] = {}
    broken = False
    for binding in parse_stream(io.StringIO(text)):
        # A binding's text begins with the blank lines and comments before it.
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string[:blank].count("\n")
        if binding.error:
            problems.append(Problem(".env", f"line {line} is not of the form NAME=value"))
            broken = True
        elif binding.key is not None:
            lines[binding.key] = line
    if broken:
        return
    values = {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}
    yield Variables(
        values, ".env", named=False, place=lambda name: f".env line {lines.get(name, 0)}, {name}"
    )


@dataclass(frozen=True, slots=True)
class YamlFile:
    """Keys and values of a file; its keys are the settings' names."""

    name: str
    values: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)

    def find(self, setting: str, names: Sequence[str]) -> Found | None:
        value = self.values.get(setting)
        if value is None or value == "":
            return None
        return Found(value, self.name, f"{self.name} line {self.lines[setting]}, {setting}")


def yaml_file(
    path: Path, name: str, known: Sequence[str], problems: list[Problem]
) -> Iterator[Source]:
    """Yield the settings of a YAML file; a key that is no setting is a problem."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        problems.append(Problem(name, f"the file cannot be read: {reason}"))
        return
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            problems.append(Problem(name, "the file is not a mapping of settings to values"))
            return
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if key not in known:
                hint = did_you_mean(key, known)
                problems.append(Problem(name, f"line {line}: {key!r} is no setting{hint}"))
            elif key in lines:
                problems.append(
                    Problem(name, f"line {line}: {key} is there already, in line {lines[key]}")
                )
            else:
                lines[key] = line
                values[key] = loader.construct_object(value_node, deep=True)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line_text = f"line {mark.line + 1}: " if mark is not None else ""
        # The error's own text would quote the line, which may hold a secret.
        problems.append(Problem(name, f"{line_text}the file is not YAML that can be read"))
        return
    finally:
        loader.dispose()
    yield YamlFile(name, values, lines)
