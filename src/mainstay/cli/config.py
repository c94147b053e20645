"""``mainstay config``: what a service was told, by whom, and how to tell it something else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from mainstay.config import Settings, Sources, examples
from mainstay.config.fields import groups
from mainstay.config.messages import did_you_mean
from mainstay.config.settings import with_prefix
from mainstay.errors import Misconfigured
from mainstay.processes import manifest
from mainstay.processes.manifest import NotDeclared, ServiceSpec

__all__ = ["Subject", "config", "subjects"]


@dataclass(frozen=True, slots=True)
class Subject:
    """One service as far as its settings go: its class, its folder and what it is told.

    Args:
        name: The service's name in ``mainstay.toml``; empty outside of a project.
        folder: Where its ``.env`` and ``config.yml`` are.
        settings: Its settings class.
        sources: What its processes would read.
        targets: What its processes run, ``module:attribute``.
    """

    name: str
    folder: Path
    settings: type[Settings]
    sources: Sources
    targets: tuple[str, ...] = ()


def config(
    service: Annotated[
        str | None, typer.Option(help="A service of mainstay.toml; all of them unless told.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only validate. With --write-examples: only tell which files are stale, exit 1.",
        ),
    ] = False,
    write_examples: Annotated[
        bool,
        typer.Option("--write-examples", help="Write .env.example and config.yml.example."),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(help="With --write-examples: a page of what every service has."),
    ] = None,
) -> None:
    """Show every setting: its value (secrets masked), where it came from, its variables."""
    found = list(subjects(service))
    if write_examples:
        raise typer.Exit(_write(_files(found, reference), only_tell=check))
    loaded = _load(found)
    if check:
        return
    if as_json:
        document = {"services": [_document(*each) for each in loaded]}
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for number, (subject, settings) in enumerate(loaded):
        if number:
            typer.echo("")
        if subject.name:
            typer.echo(f"{subject.name} ({subject.folder})")
        typer.echo("\n".join(_table(settings)))
        for name, hint in _unread(subject):
            typer.echo(f"note: {name} is set and no setting is read from it{hint}", err=True)


def subjects(name: str | None, start: Path | None = None) -> Iterator[Subject]:
    """Yield the service called *name*, or every service of the project, or what is here.

    Raises:
        NotDeclared: There is no such service.
        Misconfigured: Its settings class cannot be imported.
    """
    if name is None and not _is_project(start):
        here = Sources.here()
        yield Subject("", here.directory, Settings, here)
        return
    project = manifest.load(manifest.find(start))
    chosen = [each for each in project.services if name in (None, each.name)]
    if not chosen:
        known = ", ".join(each.name for each in project.services)
        raise NotDeclared(f"{name!r} is no service of {project.path}; choose from: {known}")
    for each in chosen:
        here = Sources.here()
        # The developer's environment wins over the manifest's, as it does for the processes.
        environ = {**each.env, **here.environ}
        yield Subject(
            each.name,
            each.path,
            settings_class(each),
            Sources(each.path, environ, embedded=here.embedded),
            tuple(process.target for process in each.processes if process.target),
        )


def settings_class(service: ServiceSpec) -> type[Settings]:
    """Return the settings class of *service*: the one that ``mainstay.toml`` names, else
    ``Settings`` in ``<package>.settings``, else the one that every service has.

    Raises:
        Misconfigured: What is named is not there, or is no settings class.
    """
    for folder in (service.path, service.path / "src"):
        if folder.is_dir() and str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    named = service.settings
    packages = [each.target.partition(".")[0] for each in service.processes if each.target]
    candidates = [f"{package}.settings:Settings" for package in (*packages, service.name)]
    for target in dict.fromkeys([named] if named else candidates):
        module_name, _, attribute = target.partition(":")
        try:
            found = getattr(import_module(module_name), attribute, None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module is there; something that it imports is not
            found = None
        if isinstance(found, type) and issubclass(found, Settings):
            return found
        if named:
            raise Misconfigured(
                f"[service.{service.name}] settings = {target!r} names no settings class: it is "
                f'"module:attribute" of a subclass of mainstay.Settings'
            )
    return with_prefix(service.prefix)


def _is_project(start: Path | None) -> bool:
    try:
        manifest.find(start)
    except Misconfigured:
        return False
    return True


def _load(found: list[Subject]) -> list[tuple[Subject, Settings]]:
    """Load the settings of each service; what is wrong with any of them is one message."""
    loaded, refused = [], []
    for subject in found:
        try:
            loaded.append((subject, subject.settings.load_from(subject.sources)))
        except Misconfigured as error:
            refused.append(f"{subject.name}: {error}" if subject.name else str(error))
    if refused:
        raise Misconfigured("\n".join(refused))
    return loaded


def _document(subject: Subject, settings: Settings) -> dict[str, Any]:
    return {
        "service": subject.name or settings.service_name,
        "settings": {
            name: {
                "value": settings.masked(name),
                "origin": settings.origin(name),
                "variables": list(settings.variables(name)),
                "parts": [list(group.variables) for group in groups(field)],
            }
            for name, field in type(settings).model_fields.items()
        },
    }


def _table(settings: Settings) -> Iterator[str]:
    """Align three columns; the last, the variables, takes what is left of the terminal."""
    rows = [("setting", "value", "from", "variables")]
    rows += [
        (
            name,
            settings.shown(name) or "-",
            settings.origin(name),
            ", ".join(settings.variables(name))
            + "".join(f", or {group.host} …" for group in groups(field)),
        )
        for name, field in type(settings).model_fields.items()
    ]
    # One long value must not push every other row off the screen.
    widths = [min(max(len(row[column]) for row in rows), 48) for column in range(3)]
    line = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)]
        text = "  ".join(cells).rstrip()
        yield f"{text[: line - 1]}…" if 0 < line < len(text) else text


def _unread(subject: Subject) -> Iterator[tuple[str, str]]:
    """Yield variables with the service's prefix that name no setting: slips of the pen, mostly."""
    kind = subject.settings
    known = {name for setting in kind.model_fields for name in kind.variables(setting)}
    for name in sorted(subject.sources.environ):
        if name.startswith(kind.env_prefix) and name.removesuffix("_FILE") not in known:
            yield name, did_you_mean(name, known)


def _files(found: list[Subject], reference: Path | None) -> Iterator[tuple[Path, str]]:
    for subject in found:
        yield subject.folder / examples.DOTENV_NAME, examples.dotenv_example(subject.settings)
        yield subject.folder / examples.YAML_NAME, examples.yaml_example(subject.settings)
    if reference is not None:
        yield reference, examples.reference(Settings)


def _write(files: Iterator[tuple[Path, str]], *, only_tell: bool) -> int:
    """Write each file that is not as it should be, or only say so; return the exit code."""
    stale = []
    for path, text in files:
        try:
            current = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            current = None
        if current == text:
            continue
        stale.append(path)
        if not only_tell:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        shown = os.path.relpath(path)
        typer.echo(
            f"{shown} is stale: run the same command without --check"
            if only_tell
            else f"{shown} written",
            err=only_tell,
        )
    return 1 if stale and only_tell else 0
