"""``mainstay health``: is a running process healthy, and does its heart beat?"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mainstay.processes.manifest import Manifest, ProcessSpec

__all__ = ["health"]

HEARTBEAT_LIMIT_SECONDS = 30.0
"""Consumers beat every second while they progress; a longer silence is no slow second."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one process."""

    process: str
    healthy: bool
    detail: str


def health(
    process: Annotated[
        str | None,
        typer.Argument(metavar="PROCESS", help="data.api, api, or data; all when none."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Ask running processes whether they are healthy: exit 0 when all are, 1 when one is not."""
    from mainstay.processes import manifest

    project = manifest.load(manifest.find())
    chosen = project.select([process] if process else [])
    alone = len(chosen) == 1  # then `mainstay run` lets the environment choose its port
    verdicts = [_judge(project, each, _port(project, each, alone=alone)) for each in chosen]
    if as_json:
        rows = [
            {"process": each.process, "healthy": each.healthy, "detail": each.detail}
            for each in verdicts
        ]
        typer.echo(json.dumps({"processes": rows}, indent=2))
    else:
        width = max(len(each.process) for each in verdicts)
        for each in verdicts:
            word = "healthy  " if each.healthy else "unhealthy"
            typer.echo(f"{each.process.ljust(width)}  {word}  {each.detail}".rstrip())
    raise typer.Exit(0 if all(each.healthy for each in verdicts) else 1)


def _port(project: Manifest, process: ProcessSpec, *, alone: bool) -> int | None:
    from mainstay.processes import environment

    if alone:
        told = environment.Told.read(project.service_of(process), os.environ)
        process = environment.alone(process, told)
    return process.health_port


def _judge(project: Manifest, process: ProcessSpec, port: int | None) -> Verdict:
    from mainstay.processes.environment import heartbeat_file
    from mainstay.processes.readiness import ask
    from mainstay.processes.state import state_folder

    name = process.full_name
    beat = heartbeat_file(state_folder(project.path.parent), process)
    silence = _silence_seconds(beat)
    if silence is not None and silence > HEARTBEAT_LIMIT_SECONDS:
        return Verdict(name, False, f"no heartbeat for {silence:.0f} s")
    if port is None:
        if silence is None:
            return Verdict(name, False, "it has no port to ask and has left no heartbeat")
        return Verdict(name, True, f"heartbeat {silence:.0f} s ago")
    for path in ("/healthz", "/health"):
        answer = ask(port, path)
        if answer.status is None:
            return Verdict(name, False, f"port {port} does not answer")
        if answer.status != 200:
            return Verdict(name, False, f"{path} answers {answer.status}: {_unwell(answer.text)}")
    return Verdict(name, True, "")


def _silence_seconds(beat: Path) -> float | None:
    try:
        return max(time.time() - beat.stat().st_mtime, 0.0)
    except OSError:
        return None


def _unwell(text: str) -> str:
    try:
        checks = json.loads(text)["checks"]
        return ", ".join(name for name, check in checks.items() if check["status"] != "healthy")
    except (AttributeError, KeyError, TypeError, ValueError):
        return text[:100]
