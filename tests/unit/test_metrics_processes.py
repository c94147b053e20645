"""Numbers of several processes: added up, right after deaths, and no files left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainstay.metrics import processes
from tests.waiting import PATIENCE_SECONDS

SET_UP = """
import json, multiprocessing, os, re, signal, sys, time
from mainstay.config import Settings
from mainstay.metrics import Metrics, processes

metrics = Metrics(Settings(env="test", version="1"))

def shown(name):
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\\S+)$", metrics.exposition()[0].decode(), re.M)
    return [float(value) for value in found]

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

def count(times=10):
    metrics.up()
    for _ in range(times):
        metrics.request("GET", "/", 200, 0.01)
        metrics.task("t", "done", 0.01)

def files():
    return sorted(p.name for p in directory.glob("*.db"))
"""
CHILDREN = f"{SET_UP}\ndirectory = processes.prepare_for_children()\n"


def run(program: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "program.py"
    script.write_text(program, "utf-8")
    base = {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env=base | {"TMPDIR": str(tmp_path)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done


def result(program: str, tmp_path: Path, **environment: str) -> object:
    return json.loads(run(program, tmp_path, **environment).stdout)


def test_children_that_died_go_on_counting(tmp_path: Path) -> None:
    program = """
count()
for _ in range(5):
    in_child(count)
def killed():
    count()
    os.kill(os.getpid(), signal.SIGKILL)
in_child(killed)
before = [shown("app_requests_total"), shown("mainstay_task_duration_seconds_count")]
after = [shown("app_requests_total"), shown("mainstay_task_duration_seconds_count")]
in_child(count)
later = [shown("app_requests_total"), shown("mainstay_task_duration_seconds_count")]
print(json.dumps([before, after, later]))
"""
    assert result(CHILDREN + program, tmp_path) == [
        [[70.0], [70.0]],
        [[70.0], [70.0]],
        [[80.0], [80.0]],
    ]


def test_files_do_not_pile_up(tmp_path: Path) -> None:
    program = """
count()
for _ in range(8):
    in_child(count)
    shown("app_up")
print(json.dumps(len(files())))
"""
    # Three kinds of this process (counter, histogram and gauges) and what was folded.
    assert int(str(result(CHILDREN + program, tmp_path))) <= 8


def test_gauges_of_the_dead_are_gone_and_the_newest_stamp_stays(tmp_path: Path) -> None:
    program = """
in_child(lambda: (metrics.breaker("bank", "open"), metrics.completed()))
print(json.dumps([shown("mainstay_breaker_state"), shown("app_last_iteration_timestamp_seconds")]))
"""
    breaker, stamps = json.loads(run(CHILDREN + program, tmp_path).stdout)

    assert breaker == []
    assert stamps[0] > 1_600_000_000


def test_what_processes_use_is_added_up_and_never_falls(tmp_path: Path) -> None:
    program = """
def busy():
    count()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    busy()
    os.write(writer, b"x")
    signal.pause()
os.read(reader, 1)
count()
alive = [shown("process_cpu_seconds_total")[0], shown("process_open_fds")[0]]
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
dead = [shown("process_cpu_seconds_total")[0], shown("process_open_fds")[0]]
print(json.dumps([alive, dead]))
"""
    alive, dead = json.loads(run(CHILDREN + program, tmp_path).stdout)

    assert dead[0] >= alive[0] > 0.3
    assert dead[1] < alive[1]


def test_a_pid_that_was_used_again_is_not_taken_for_its_predecessor(tmp_path: Path) -> None:
    program = """
count()
os.getpid(), processes
for file in directory.glob("*.db"):
    kind, _, _ = file.name.rpartition("_")
    # As if a process with our pid had died before we were started.
    file.with_name(f"{kind}_{os.getpid()}-1.db").write_bytes(file.read_bytes())
print(json.dumps([shown("app_requests_total"), [f for f in files() if "-1.db" in f]]))
"""
    assert result(CHILDREN + program, tmp_path) == [[20.0], []]


def test_two_readers_fold_a_file_once(tmp_path: Path) -> None:
    program = """
import threading
for _ in range(6):
    in_child(count)
threads = [threading.Thread(target=shown, args=("app_up",)) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(shown("app_requests_total")))
"""
    assert result(CHILDREN + program, tmp_path) == [60.0]


def test_the_directory_goes_with_the_main_process(tmp_path: Path) -> None:
    program = """
in_child(count)
print(json.dumps([str(directory), oct(directory.stat().st_mode & 0o777)]))
"""
    directory, mode = json.loads(run(CHILDREN + program, tmp_path).stdout)

    assert mode == "0o700"
    assert not Path(directory).exists()


SPAWNED = """
def child(turn, counted):
    count()
    counted.put(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    turn.get()

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    turn, counted = spawn.Queue(), spawn.Queue()
    children = [spawn.Process(target=child, args=(turn, counted)) for _ in range(2)]
    for process in children: process.start()
    directories = {counted.get() for _ in children}
    for process in children: turn.put(1)
    for process in children: process.join()
    reader = spawn.Process(target=report)
    reader.start()
    reader.join()
"""


def test_spawned_workers_find_one_another_by_their_parent(tmp_path: Path) -> None:
    report = """
def report():
    print(json.dumps(shown("app_requests_total")))
"""
    assert result(SET_UP + report + SPAWNED, tmp_path) == [20.0]


def test_directories_of_parents_that_died_are_swept(tmp_path: Path) -> None:
    report = """
def report():
    shown("app_up")
"""
    stale = tmp_path / f"mainstay-{os.getuid()}" / "999999999-5"
    stale.mkdir(parents=True)
    stale.parent.chmod(0o700)

    run(SET_UP + report + SPAWNED, tmp_path)

    assert not stale.exists()


def test_a_directory_that_is_open_to_others_is_not_used(tmp_path: Path) -> None:
    base = tmp_path / f"mainstay-{os.getuid()}"
    base.mkdir()
    base.chmod(0o755)

    program = "print(json.dumps([str(directory), shown('app_iterations_total')]))"
    done = run(CHILDREN + program, tmp_path)

    assert json.loads(done.stdout) == ["None", [0.0]]
    assert "PROMETHEUS_MULTIPROC_DIR" in done.stderr


def test_a_directory_that_the_environment_names_is_emptied_for_a_new_start(tmp_path: Path) -> None:
    named = tmp_path / "numbers"
    named.mkdir()
    (named / "counter_12.db").write_bytes(b"left by an earlier start")

    program = "in_child(count); print(json.dumps([str(directory), shown('app_requests_total')]))"
    done = result(CHILDREN + program, tmp_path, PROMETHEUS_MULTIPROC_DIR=str(named))

    assert done == [str(named), [10.0]]


def test_workers_of_gunicorn_count_together(tmp_path: Path) -> None:
    program = """
os.environ["SERVER_SOFTWARE"] = "gunicorn/23.0.0"
reader, writer = os.pipe()
def work():
    Metrics(Settings(env="test")).request("GET", "/", 200, 0.1)
in_child(work)
in_child(work)
in_child(lambda: os.write(writer, json.dumps(shown("app_requests_total")).encode()))
print(os.read(reader, 1000).decode())
"""
    assert result(SET_UP + program, tmp_path) == [2.0]


def test_instruments_of_authors_are_added_up_too(tmp_path: Path) -> None:
    program = """
from prometheus_client import Counter
from prometheus_client.metrics_core import GaugeMetricFamily
class Stock:
    def collect(self):
        return [GaugeMetricFamily("stock_items", "In stock", value=7)]
cards = Counter("cards", "Charged", registry=metrics.registry)
metrics.registry.register(Stock())
in_child(cards.inc)
in_child(cards.inc)
print(json.dumps([shown("cards_total"), shown("stock_items"), shown("app_requests_total")]))
"""
    assert result(CHILDREN + program, tmp_path) == [[2.0], [7.0], []]


def test_an_instrument_that_is_older_than_ours_shares_its_files(tmp_path: Path) -> None:
    program = """
from prometheus_client import Counter
cards = Counter("cards", "Charged", ["kind"])
for kind in range(50):
    cards.labels(str(kind)).inc()
    metrics.dead_letter(str(kind))
print(json.dumps([sum(shown("cards_total")), sum(shown("mainstay_dead_lettered_total"))]))
"""
    assert result(CHILDREN + program, tmp_path) == [50.0, 50.0]


def test_one_of_several_processes_sends_for_all(tmp_path: Path) -> None:
    program = """
from mainstay.metrics.pusher import Pusher
from mainstay.testing.otlp import OtlpReceiver
receiver = OtlpReceiver().start()
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
count()
metrics.close()
def child():
    other = Metrics(Settings(env="test"))
    other.up()
    other.close()
metrics.up()
taken = metrics._pusher._is_our_turn()
before = len(receiver.requests)
in_child(child)
after = len(receiver.requests)
metrics.close()
in_child(child)
later = len(receiver.requests)
print(json.dumps([taken, after - before, later > after]))
receiver.close()
"""
    assert result(CHILDREN + program, tmp_path) == [True, 0, True]


def test_a_process_on_its_own_needs_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)

    assert processes.find_directory() is None


def test_without_proc_a_start_time_is_asked_of_ps() -> None:
    before = time.time()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        after = time.time()
        started = int(processes._start_time_by_ps(process.pid))

    # To the second, and counted from when the machine was started.
    assert before - 2 <= started <= after + 2
    assert processes._start_time_by_ps(999_999_999) == "0"


def test_where_there_is_no_proc_something_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prometheus_client.ProcessCollector.collect", lambda self: [])

    names = {metric.name for metric in processes.own_process()}

    assert {"process_cpu_seconds", "process_max_resident_memory_bytes"} <= names
