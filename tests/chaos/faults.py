"""Which faults are there, and how is each of them done and undone?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from mainstay.testing import FaultProxy, RabbitMQ, Redis, Server
from tests.chaos.processes import Process
from tests.chaos.stage import Stage
from tests.chaos.wires import Wires

__all__ = ["Ends", "Fault", "Luck", "faults_of_processes", "faults_of_servers"]


class Luck:
    """All that is left to chance.

    Args:
        seed: The same, and the same happens again in the same order.
        longest_seconds: How long a fault may last.
    """

    def __init__(self, seed: str, *, longest_seconds: float) -> None:
        self.random = Random(seed)
        self._longest_seconds = longest_seconds

    def a_while(self) -> float:
        """Return some seconds: mostly few, sometimes very many."""
        return min(self.random.expovariate(0.5), self._longest_seconds)


@dataclass(slots=True)
class Ends:
    """How processes ended that were asked to.

    Args:
        slowest_seconds: What the slowest has taken.
        unclean: The name and the exit code of each that did not do it well.
    """

    slowest_seconds: float = 0.0
    unclean: list[str] = field(default_factory=list)

    def ask(self, process: Process) -> bool:
        """Have *process* end, and begin anew."""
        began = time.monotonic()
        code = process.terminate()
        # One that a failpoint killed in that very moment has an excuse.
        if code not in (0, -signal.SIGKILL):
            self.unclean.append(f"{process.name} {code}")
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        return True


Strike = Callable[[Luck], object]

_SESSIONS = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
"""
_LOCK = "begin; lock table public.effects; select pg_sleep({seconds:.3f}); commit"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of them.

    Args:
        kind: Its name.
        strike: Does it, and undoes what does not pass by itself; says whether it hit anything.
        weight: How often it comes, compared with the others.
    """

    kind: str
    strike: Strike
    weight: int = 2


def faults_of_processes(
    workers: Sequence[Process],
    callees: Sequence[Process] = (),
    apis: Sequence[Process] = (),
    senders: Sequence[Process] = (),
    *,
    ends: Ends,
) -> list[Fault]:
    """Return what may befall the processes of the subject.

    Args:
        ends: Gets how those ended that were asked to.
    """

    def end(process: Process, _luck: Luck) -> bool:
        return process.status("/healthz") == 200 and ends.ask(process)

    faults = [
        Fault("child of a worker killed", _upon(workers, _kill_child), weight=4),
        Fault("child of a worker paused", _upon(workers, _pause_child)),
        Fault("worker killed with its children", _upon(workers, _kill_group)),
    ]
    if senders:
        faults.append(Fault("sender killed", _upon(senders, _kill)))
    for kind, processes in {"worker": workers, "call server": callees, "API": apis}.items():
        if not processes:
            continue
        faults += [
            Fault(f"{kind} killed", _upon(processes, _kill)),
            Fault(f"{kind} ended", _upon(processes, end)),
            Fault(f"{kind} paused", _upon(processes, _pause)),
        ]
    return faults


def faults_of_servers(stage: Stage, wires: Wires) -> list[Fault]:
    """Return what may befall the servers and the wires to them."""
    postgres = stage.servers.postgres
    faults = [
        Fault("broker killed", lambda luck: _restart(stage.server, signal.SIGKILL, luck), weight=1),
        Fault("broker paused", lambda luck: _freeze(stage.server, luck)),
        Fault("connections cut", lambda _luck: stage.cut()),
        Fault("PostgreSQL restarted", lambda luck: _restart(postgres, signal.SIGQUIT, luck)),
        Fault("PostgreSQL paused", lambda luck: _freeze(postgres, luck)),
        Fault("sessions ended", lambda _luck: stage.sql(_SESSIONS) != "0"),
        Fault("table locked", lambda luck: stage.sql(_LOCK.format(seconds=luck.a_while())) or True),
        Fault("wires cut", lambda _luck: wires.disturb(FaultProxy.reset)),
        Fault("wires slow", lambda luck: _disturb(wires, _slow, luck)),
        Fault("wires mute", lambda luck: _disturb(wires, FaultProxy.stall, luck)),
        Fault("wires absent", lambda luck: _disturb(wires, _refuse, luck)),
    ]
    if isinstance(stage.server, RabbitMQ):
        return faults + _faults_of_rabbitmq(stage.server)
    return faults + _faults_of_redis(stage.server)


def _faults_of_rabbitmq(server: RabbitMQ) -> list[Fault]:
    def alarm(setting: str, raised: str, ended: str) -> Strike:
        def strike(luck: Luck) -> bool:
            server.evaluate(f"{setting}({raised}).")
            time.sleep(luck.a_while())
            server.evaluate(f"{setting}({ended}).")
            return True

        return strike

    disk = "rabbit_disk_monitor:set_disk_free_limit"
    memory = "vm_memory_monitor:set_vm_memory_high_watermark"
    return [
        Fault("disk alarm", alarm(disk, '"100000GB"', '"50MB"')),
        Fault("memory alarm", alarm(memory, "0.0001", "0.4")),
    ]


def _faults_of_redis(server: Redis) -> list[Fault]:
    def fill(luck: Luck) -> bool:
        server.command("CONFIG SET maxmemory 1")
        time.sleep(luck.a_while())
        server.command("CONFIG SET maxmemory 0")
        return True

    return [
        Fault("memory full", fill),
        Fault(
            "clients paused",
            lambda luck: server.command(f"CLIENT PAUSE {luck.a_while() * 1000:.0f} ALL"),
        ),
        Fault("scripts forgotten", lambda _luck: server.command("SCRIPT FLUSH")),
    ]


def _upon(processes: Sequence[Process], act: Callable[[Process, Luck], bool]) -> Strike:
    return lambda luck: act(luck.random.choice(processes), luck)


def _kill(process: Process, _luck: Luck) -> bool:
    return process.kill() != 0


def _kill_group(process: Process, _luck: Luck) -> bool:
    return process.kill_group() != 0


def _pause(process: Process, luck: Luck) -> bool:
    if not process.pid:
        return False
    process.pause()
    time.sleep(luck.a_while())
    process.resume()
    return True


def _kill_child(process: Process, luck: Luck) -> bool:
    return _signal_child(process, luck, signal.SIGKILL) != 0


def _pause_child(process: Process, luck: Luck) -> bool:
    child = _signal_child(process, luck, signal.SIGSTOP)
    if child:
        time.sleep(luck.a_while())
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGCONT)
    return child != 0


def _signal_child(process: Process, luck: Luck, number: signal.Signals) -> int:
    # A worker one of whose children dies while it begins gives up, and is begun anew.
    if process.status("/ready") != 200 or not (children := process.children):
        return 0
    child = luck.random.choice(children)
    with suppress(ProcessLookupError):
        os.kill(child, number)
        return child
    return 0


def _restart(server: Server, number: signal.Signals, luck: Luck) -> bool:
    if number == signal.SIGKILL or server.pid is None:
        server.kill()
    else:
        os.kill(server.pid, number)
        while server.is_running():
            time.sleep(0.01)
    time.sleep(min(luck.a_while(), 2.0))
    server.start()
    return True


def _freeze(server: Server, luck: Luck) -> bool:
    server.pause()
    time.sleep(luck.a_while())
    server.resume()
    return True


def _disturb(wires: Wires, act: Callable[[FaultProxy], object], luck: Luck) -> bool:
    wires.disturb(act)
    time.sleep(luck.a_while())
    wires.disturb(FaultProxy.heal)
    return True


def _slow(proxy: FaultProxy) -> None:
    proxy.latency_seconds = 0.05


def _refuse(proxy: FaultProxy) -> None:
    proxy.refuse()
    proxy.reset()
