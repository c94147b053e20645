"""What ``mainstay run`` does: the same processes, against servers that the environment names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from mainstay.cli.launching import (
    launch,
    refuse_missing_folders,
    refuse_taken_ports,
    services_of,
)
from mainstay.cli.signals import Interrupted, Signals
from mainstay.errors import Misconfigured
from mainstay.processes import environment, state
from mainstay.processes.environment import Told
from mainstay.processes.leash import Leash
from mainstay.processes.manifest import Manifest, ProcessSpec, ServiceSpec, find, load
from mainstay.processes.output import Output
from mainstay.processes.supervisor import Launch, Supervisor

__all__ = ["run_processes"]


def run_processes(names: Iterable[str]) -> int:
    """Run the processes called *names*, or all; one alone takes the place of this process.

    Raises:
        MainstayError: They cannot be started; with a server that is named nowhere it is
            `Misconfigured`.
    """
    manifest = load(find())
    processes: Sequence[ProcessSpec] = manifest.select(names)
    if not processes:
        raise Misconfigured(f"{manifest.path} declares no process: add [service.NAME.process.NAME]")
    services = services_of(manifest, processes)
    refuse_missing_folders(manifest, services)
    told = {service.name: Told.read(service, os.environ) for service in services}
    _refuse_unnamed_servers(services, processes, told)
    processes = [environment.scaled(each, told[each.service]) for each in processes]
    if len(processes) == 1:
        process = environment.alone(processes[0], told[processes[0].service])
        refuse_taken_ports([process], _hosts(told))
        _become(_launches(manifest, [process], told)[0])
    refuse_taken_ports(processes, _hosts(told))
    return _supervise(_launches(manifest, processes, told))


def _refuse_unnamed_servers(
    services: Iterable[ServiceSpec], processes: Iterable[ProcessSpec], told: dict[str, Told]
) -> None:
    problems = []
    for service in services:
        kinds = [process.kind for process in processes if process.service == service.name]
        if missing := environment.unnamed_servers(service, told[service.name], kinds):
            problems.append(f"{service.name} needs {', '.join(missing)}")
    if problems:
        raise Misconfigured(
            "`mainstay run` uses the servers that the environment names, and these are not "
            f"named: {'; '.join(problems)}. Set them, or use `mainstay dev`, which starts servers "
            "of its own"
        )


def _launches(
    manifest: Manifest, processes: Iterable[ProcessSpec], told: dict[str, Told]
) -> list[Launch]:
    folder = state.state_folder(manifest.project)
    launches = []
    for process in processes:
        service = manifest.service_of(process)
        called = f"{service.prefix}SERVICE_NAME"
        named = told[service.name].names("service_name")
        launches.append(
            launch(
                process,
                service,
                told[service.name],
                mode="run",
                common={**({} if named else {called: service.name}), **service.env},
                state=folder,
                environ=os.environ,
            )
        )
    return launches


def _become(start: Launch) -> None:
    start.prepare()
    os.chdir(start.folder)
    sys.stdout.flush()
    try:
        os.execvpe(start.command[0], list(start.command), dict(start.env))  # noqa: S606
    except OSError as error:
        raise Misconfigured(
            f"{start.name} cannot be started: {start.command[0]}: {error.strerror}"
        ) from None


def _supervise(launches: list[Launch]) -> int:
    # In a terminal each line gets its process' name; a collector of logs gets them as they are.
    output = Output(start.name for start in launches) if sys.stdout.isatty() else None
    leash = Leash(patience_seconds=max(start.patience_seconds for start in launches))
    try:
        with Signals() as signals:
            supervisor = Supervisor(
                launches, leash=leash, note=output.note if output else _note, output=output
            )
            signals.hand_to(supervisor.stop)
            return supervisor.run()
    except Interrupted:
        return 0
    finally:
        leash.close()


def _note(text: str) -> None:
    sys.stderr.write(f"mainstay: {text}\n")
    sys.stderr.flush()


def _hosts(told: dict[str, Told]) -> dict[str, str]:
    return {name: each.host("run") for name, each in told.items()}
