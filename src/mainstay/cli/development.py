"""What ``mainstay dev`` does, from nothing to a running project and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mainstay.cli.launching import (
    launch,
    refuse_missing_folders,
    refuse_taken_ports,
    services_of,
)
from mainstay.cli.servers import Servers, forget_servers
from mainstay.cli.signals import Interrupted, Signals, when_the_terminal_closes
from mainstay.config.loading import family
from mainstay.errors import MainstayError, Misconfigured
from mainstay.processes import environment, readiness, state, strays
from mainstay.processes.environment import Told
from mainstay.processes.leash import Leash
from mainstay.processes.manifest import Manifest, ProcessSpec, ServiceSpec, find, load
from mainstay.processes.output import Output
from mainstay.processes.supervisor import Supervisor, describe_end
from mainstay.processes.watching import Watcher, affected, library_folder

__all__ = ["develop"]

# After this long the table of addresses is shown whether everything is ready or not.
_READY_SECONDS = 60.0


def develop(only: Iterable[str], *, reset: bool, reload: bool) -> int:
    """Run the project that the working folder lies in until it is told to stop.

    Args:
        only: The processes to run; all of them when empty.
        reset: Forget all development data first.
        reload: Start a service's processes again when its files change.

    Raises:
        MainstayError: It cannot be started; nothing is left running.
    """
    began = time.monotonic()
    manifest = load(find())
    processes = manifest.select(only)
    if not processes:
        raise Misconfigured(f"{manifest.path} declares no process: add [service.NAME.process.NAME]")
    with Signals() as signals, ExitStack() as undo:
        try:
            project = _Project.open(manifest, processes, undo)
            project.clear(reset=reset)
            project.start_servers()
            project.migrate()
            running = project.supervise(reload=reload)
            signals.hand_to(running.stop)
            # A second `stop` would end everything at once.
            when_the_terminal_closes(lambda: None if running.is_ending else running.stop())
            project.announce(running, began)
            if reload:
                project.watch(running)
            return running.run()
        except Interrupted:
            return 0


@dataclass(slots=True)
class _Project:
    """One run of the project; what has been begun is undone by ``undo``, last things first."""

    manifest: Manifest
    processes: tuple[ProcessSpec, ...]
    services: list[ServiceSpec]
    told: Mapping[str, Told]
    state: Path
    output: Output
    leash: Leash
    undo: ExitStack
    environ: Mapping[str, str]
    servers: Servers | None = None
    common: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def open(
        cls, manifest: Manifest, processes: tuple[ProcessSpec, ...], undo: ExitStack
    ) -> _Project:
        """Look at what is declared and take the project's lock."""
        services = services_of(manifest, processes)
        refuse_missing_folders(manifest, services)
        told = {service.name: Told.read(service, os.environ) for service in manifest.services}
        processes = tuple(environment.scaled(each, told[each.service]) for each in processes)
        if len(processes) == 1:
            processes = (environment.alone(processes[0], told[services[0].name]),)
        folder = state.state_folder(manifest.project)
        lock = state.Lock(folder)
        lock.take()
        undo.callback(lock.release)
        leash = Leash()
        undo.callback(leash.close)
        names = [process.full_name for process in processes]
        output = Output([*names, *(f"{service.name}.db" for service in services)])
        return cls(
            manifest, processes, services, told, folder, output, leash, undo, dict(os.environ)
        )

    @property
    def mark(self) -> str:
        return state.project_mark(self.manifest.project)

    def clear(self, *, reset: bool) -> None:
        """Remove what stands in the way: strays of an earlier run and, if asked, all data."""
        left = strays.find_strays(environment.MARK, self.mark)
        for stray in left:
            self.output.note(
                f"process {stray.pid} is left over from an earlier run and is stopped: "
                f"{stray.command_line}"
            )
        strays.stop_strays(left)
        if reset:
            forget_servers(self.state)
            state.reset(self.state)
            self.output.note(f"{self.state} is empty now")
        refuse_taken_ports(
            self.processes, {name: told.host("dev") for name, told in self.told.items()}
        )

    def start_servers(self) -> None:
        """Start the servers that no variable names, and give the services their addresses."""
        embedded = [s for s in self.services if s.database and not self._names(s, "database_url")]
        servers = Servers(
            self.state,
            held=self.leash,
            note=self.output.note,
            postgres=bool(embedded),
            valkey=not all(self._names(service, "redis_url") for service in self.services),
        )
        self.servers = servers
        self.undo.callback(servers.stop)
        servers.start(service.name for service in embedded)
        secrets = state.kept_secrets(self.state, "jwt_secret_key", "secret_key")
        # Also for those that do not run, so that a second terminal in the folder of one of them
        # is told what it would be given here, and not what another one was.
        for service in self.manifest.services:
            given: dict[str, str] = {}
            if servers.postgres is not None and service in embedded:
                given["DATABASE_URL"] = servers.postgres.url(service.name)
            if servers.valkey is not None and not self._names(service, "redis_url"):
                given["REDIS_URL"] = servers.valkey.url()
            self.common[service.name] = environment.service_environment(
                service, self.told[service.name], servers=given, secrets=secrets
            )
        self._publish()

    def migrate(self) -> None:
        """Bring the embedded databases to the newest schema, all services at once.

        Raises:
            MainstayError: One could not be; its lines say why.
        """
        migrated = [
            s for s in self.services if s.database and "DATABASE_URL" in self.common[s.name]
        ]
        if not migrated:
            return
        self.output.note("migrating " + ", ".join(service.name for service in migrated) + " …")
        started = [(service, self._start_migration(service)) for service in migrated]
        for service, process in started:
            code = process.wait()
            self.leash.release(process.pid)
            if code:
                kind = Misconfigured if code == Misconfigured.exit_code else MainstayError
                raise kind(
                    f"the database of {service.name} could not be migrated (`mainstay db upgrade` "
                    f"{describe_end(code)}): its lines above say why"
                )

    def supervise(self, *, reload: bool) -> Supervisor:
        """Return what runs the processes."""
        mark = {environment.MARK: self.mark}
        return Supervisor(
            (
                launch(
                    process,
                    self.manifest.service_of(process),
                    self.told[process.service],
                    mode="dev",
                    common={**self._log_format(process), **self.common[process.service], **mark},
                    state=self.state,
                    environ=self.environ,
                )
                for process in self.processes
            ),
            leash=self.leash,
            note=self.output.note,
            output=self.output,
            waits_for_change=reload,
        )

    def announce(self, running: Supervisor, began: float) -> None:
        """Show every address, from a thread, once the processes are ready."""

        def wait_and_show() -> None:
            unready = readiness.wait_until_ready(
                {each.full_name: each.health_port for each in self.processes if each.health_port},
                timeout_seconds=_READY_SECONDS,
                given_up=lambda: running.refused,
                stopped=lambda: running.is_ending,
            )
            # Who has no port cannot be asked; but nobody is ready who ends again and again.
            portless = {each.full_name for each in self.processes if not each.health_port}
            failing = running.failing & portless
            if not running.is_ending:
                self.output.block(self._table(unready, failing, time.monotonic() - began))

        threading.Thread(target=wait_and_show, name="readiness", daemon=True).start()

    def watch(self, running: Supervisor) -> None:
        """Start a service's processes again when its files change."""
        folders = {service.name: service.path for service in self.services}
        library = library_folder()
        watched = list(folders.values())
        if "site-packages" not in library.parts:
            watched.append(library)

        def changed(paths: set[Path]) -> None:
            concerned = affected(paths, folders, library)
            names = [each.full_name for each in self.processes if each.service in concerned]
            running.restart(names, _shown_change(paths, self.manifest.project))

        watcher = Watcher(
            watched,
            changed=changed,
            failed=lambda reason: self.output.note(f"changes are not noticed: {reason}"),
        )
        self.undo.callback(watcher.stop)
        watcher.start()

    def _names(self, service: ServiceSpec, setting: str) -> bool:
        return self.told[service.name].names(*family(setting))

    def _log_format(self, process: ProcessSpec) -> dict[str, str]:
        # People read a terminal, programs the rest; the processes themselves see a pipe.
        told = self.told[process.service]
        if told.names("log_format") or not sys.stdout.isatty():
            return {}
        return {f"{told.prefix}LOG_FORMAT": "text"}

    def _publish(self) -> None:
        document = {
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "project": str(self.manifest.project),
            "services": {
                service.name: {
                    "path": str(service.path),
                    "env": self.common[service.name],
                    "processes": {
                        process.name: {
                            "kind": process.kind,
                            "port": process.port,
                            "metrics_port": process.metrics_port,
                        }
                        for process in self.processes
                        if process.service == service.name
                    },
                }
                for service in self.manifest.services
            },
        }
        path = self.state / "dev.json"
        self.undo.callback(path.unlink, missing_ok=True)
        state.write_private(path, json.dumps(document, indent=2) + "\n")

    def _start_migration(self, service: ServiceSpec) -> subprocess.Popen[bytes]:
        env = {**self.common[service.name], **self.environ, environment.MARK: self.mark}
        process = subprocess.Popen(
            [sys.executable, "-m", "mainstay", "db", "upgrade"],
            cwd=service.path,
            env={**env, "PYTHONUNBUFFERED": "1", "PYTHONPATH": self._python_path(service)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.leash.hold(process.pid)
        self.undo.callback(process.kill)
        threading.Thread(
            target=_copy, args=(process, f"{service.name}.db", self.output.line), daemon=True
        ).start()
        return process

    def _python_path(self, service: ServiceSpec) -> str:
        return environment.python_path(service.path, self.environ)

    def _table(
        self, unready: Mapping[str, readiness.Answer], failing: set[str], seconds: float
    ) -> str:
        rows: list[tuple[str, str]] = []
        for process in self.processes:
            name = process.full_name
            rows += _addresses(process, unready.get(name), name in failing)
        for server in self.servers.all if self.servers else []:
            how = "taken over" if server.adopted else "embedded"
            rows.append((server.title, f"127.0.0.1:{server.port}  ({how}; log: {server.log})"))
        width = max(len(name) for name, _ in rows)
        lines = "".join(f"  {name:<{width}}  {text}\n" for name, text in rows)
        state_of_it = "Not everything is ready" if unready or failing else "Ready"
        return (
            f"\n  {state_of_it} after {seconds:.1f} s\n\n{lines}\n"
            f"  Ctrl-C stops everything. Data is kept in {self.state}; "
            f"`mainstay dev --reset` empties it.\n\n"
        )


def _addresses(
    process: ProcessSpec, unready: readiness.Answer | None, is_failing: bool
) -> list[tuple[str, str]]:
    name, port = process.full_name, process.health_port
    if port is None:
        how = "  does not run well: its lines above say why" if is_failing else ""
        return [(name, f"({process.kind}; no port){how}")]
    base = f"http://127.0.0.1:{port}"
    shown = base if process.kind == "http" else f"{base}/health  ({process.kind})"
    if unready is not None:
        said = unready.status if unready.status is not None else "nothing yet"
        shown += f"  not ready: {base}/ready answers {said}"
    return [(name, shown), *(("", f"{base}/{link.lstrip('/')}") for link in process.links)]


def _copy(process: subprocess.Popen[bytes], name: str, write: Callable[[str, bytes], None]) -> None:
    if process.stdout is not None:
        with process.stdout as lines:
            for line in lines:
                write(name, line)


def _shown_change(paths: set[Path], project: Path) -> str:
    first = min(paths)
    shown = first.relative_to(project) if first.is_relative_to(project) else first
    return f"{shown} changed" if len(paths) == 1 else f"{shown} and {len(paths) - 1} more changed"
