"""What the subject is made of; each of its processes imports this."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sqlalchemy import Connection, text

from mainstay import Service
from mainstay.config import Settings
from mainstay.resources.sqlalchemy import Database
from mainstay.rpc import Calls

EXECUTIONS = "CHAOS_EXECUTIONS"
CONCURRENCY = "CHAOS_CONCURRENCY"
CONSUMER_TIMEOUT_SECONDS = "CHAOS_CONSUMER_TIMEOUT_SECONDS"
GATE_SECONDS = 0.02
QUEUE = "chaos"
CALLS_QUEUE = "chaos_calls"
EFFECTS_TABLE = """create table public.effects (
    unit text not null, pid integer not null, at timestamptz not null default clock_timestamp()
)"""

_INSERT = text("insert into public.effects (unit, pid) values (:unit, :pid)")

database = Database()
calls = Calls()
service = Service(Settings, database, calls)


def begun(unit: str) -> None:
    """Write down, outside of anything under test, that *unit* is being worked on."""
    with Path(os.environ[EXECUTIONS]).open("ab", buffering=0) as file:
        file.write(f"{unit} {os.getpid()} {time.time():.6f}\n".encode())


def wait_for(gate: str) -> None:
    """Return when the file *gate* exists; at once when it has no name."""
    while not is_open(gate):
        time.sleep(GATE_SECONDS)


def is_open(gate: str) -> bool:
    """Does the file *gate* exist, or has it no name?"""
    return not gate or Path(gate).exists()


def effect(connection: Connection, unit: str) -> None:
    """Do what a unit is there for."""
    connection.execute(_INSERT, {"unit": unit, "pid": os.getpid()})
