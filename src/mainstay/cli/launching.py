"""From what the manifest says of a process to how it is launched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mainstay.errors import MainstayError, Misconfigured
from mainstay.processes import ports
from mainstay.processes.commands import command
from mainstay.processes.environment import Mode, Told, prepare, process_environment
from mainstay.processes.manifest import Manifest, ProcessSpec, ServiceSpec
from mainstay.processes.supervisor import Launch

__all__ = ["launch", "refuse_missing_folders", "refuse_taken_ports", "services_of"]

# Beyond its own grace a process has this long to close what it holds open.
_CLOSING_SECONDS = 5.0


def launch(
    process: ProcessSpec,
    service: ServiceSpec,
    told: Told,
    *,
    mode: Mode,
    common: Mapping[str, str],
    state: Path,
    environ: Mapping[str, str],
) -> Launch:
    """Return how *process* is started.

    Args:
        process: What the manifest says of it.
        service: The service it belongs to.
        told: What the service is told by its environment and files.
        mode: Whether it is started by dev or by run.
        common: What all processes of the service are given.
        state: The project's state folder.
        environ: The environment of the developer or the container.
    """
    grace_seconds = told.grace_seconds(mode)
    return Launch(
        name=process.full_name,
        command=command(
            process,
            host=told.host(mode),
            grace_seconds=grace_seconds,
            alone=mode == "dev",
        ),
        env=process_environment(
            process, service, told=told, mode=mode, common=common, state=state, environ=environ
        ),
        folder=service.path,
        patience_seconds=told.drain_seconds(mode) + grace_seconds + _CLOSING_SECONDS,
        stops_first=process.kind == "http",
        prepare=lambda: prepare(process, state),
    )


def services_of(manifest: Manifest, processes: Iterable[ProcessSpec]) -> list[ServiceSpec]:
    """Return the services that *processes* belong to, in the manifest's order."""
    names = {process.service for process in processes}
    return [service for service in manifest.services if service.name in names]


def refuse_missing_folders(manifest: Manifest, services: Iterable[ServiceSpec]) -> None:
    """Pass when each service's folder is there.

    Raises:
        Misconfigured: One is not.
    """
    for service in services:
        if not service.path.is_dir():
            raise Misconfigured(
                f"{manifest.path}: [service.{service.name}] path names {service.path}, which is "
                f"no folder"
            )


def refuse_taken_ports(processes: Iterable[ProcessSpec], hosts: Mapping[str, str]) -> None:
    """Pass when every port of *processes* is free.

    Args:
        processes: What is about to be started.
        hosts: The address that the processes of each service listen on.

    Raises:
        MainstayError: Some are taken; the message names each with the process that holds it.
    """
    taken = [
        f"port {port} of {process.full_name} is taken by "
        f"{ports.holder(port) or 'a process that cannot be found out'}"
        for process in processes
        for port in process.ports
        if not ports.is_free(port, hosts[process.service])
    ]
    if taken:
        raise MainstayError(
            "; ".join(taken) + ": stop what holds it, or choose another port in mainstay.toml"
        )
