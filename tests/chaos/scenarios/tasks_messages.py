"""Messages on a queue of tasks that no sender of ours would send."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from tests.chaos import malformed
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.senders import Senders
from tests.chaos.stage import Stage

MEBIBYTE = 2**20


@scenario(10, "malformed messages among sound ones", keeps_books=False)
def messages_are_malformed(stage: Stage) -> None:
    room = malformed.ROOMS[stage.broker](stage.folder, stage.broker_url, stage.database_url)
    try:
        count = stage.pick(short=100, full=33_000)
        verdict = malformed.bombard(room, seed=stage.seed, count=count)
    finally:
        room.close()
    stage.faults["malformed message"] = count
    stage.figures |= {"dead": verdict.dead, "done": verdict.done, "sound": verdict.sound_done}
    assert verdict.is_good, str(verdict)


@scenario(11, "messages of unknown tasks, in pickle, in strange compressions, with wrong arguments")
def messages_are_strange(stage: Stage) -> None:
    stage.worker().ready()
    senders = Senders(stage)
    opened = stage.folder / "opened"
    harm = pickle.dumps(_Harm(opened))
    in_pickle = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
    kinds: dict[str, list[str]] = {
        "unknown-task": [_publish(senders, stage, task="os.system")],
        "decode:": [
            _publish(senders, stage, body=harm, properties=in_pickle),
            _publish(senders, stage, body=harm),
            _publish(senders, stage, compression="x-none"),
        ],
        "failed:TypeError": [_publish(senders, stage, arguments=[1, 2, 3, 4])],
    }
    sound = senders.send_many(5)
    stage.settle()
    reasons = {letter.id: letter.reason for letter in stage.dead()}
    for reason, units in kinds.items():
        for unit in units:
            assert reasons.pop(unit).startswith(reason), f"{unit}: {reason}"
            stage.fault(reason.strip(":"))
    assert reasons == {}
    assert stage.books().done == len(sound)
    assert not opened.exists(), "a pickle was read"


@scenario(12, "messages of ten megabytes, and a hundred thousand levels deep")
def messages_are_huge(stage: Stage) -> None:
    worker = stage.worker().ready()
    senders = Senders(stage)
    senders.send_many(20)
    stage.settle()
    before = _resident_bytes(worker.pid)
    large, deep = "x" * 10_000_000, "[" * 100_000 + "]" * 100_000
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    raw: dict[str, str] = {}
    for _ in range(stage.pick(short=2, full=50)):
        senders.send(payload=large)
        senders.send(payload=nested)
        raw[_publish(senders, stage, body=json.dumps([[large], {}, {}]).encode())] = "too-large"
        raw[_publish(senders, stage, body=deep.encode())] = "decode:DecodeError"
        stage.faults.update(("huge message", "deep message"))
    senders.send_many(20)
    stage.settle()
    grown = (_resident_bytes(worker.pid) - before) / MEBIBYTE
    stage.figures["grown_mebibytes"] = round(grown, 1)
    assert senders.errors["TooLarge"] == len(raw)
    assert not senders.errors_except("TooLarge"), senders.errors
    assert {letter.id: letter.reason for letter in stage.dead()} == raw
    assert grown < 50, "the worker keeps what it refuses"


class _Harm:
    """Leaves a file behind where its pickle is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def _publish(
    senders: Senders,
    stage: Stage,
    *,
    body: bytes = b"",
    arguments: object = None,
    properties: dict[str, Any] | None = None,
    **headers: object,
) -> str:
    """Put one message on the queue as a new unit, sound but for what is given; returns the unit."""
    unit = stage.ledger.submit()
    sound = json.dumps([arguments or [unit], {}, {}]).encode()
    named = {"task": "record", "id": unit, "lang": "py"} | headers
    senders.publish(body or sound, named, **(properties or {}))
    stage.ledger.settle(unit, "accepted")
    return unit


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
