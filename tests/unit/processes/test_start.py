"""How a process of the manifest begins, and how it is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mainstay.processes.start import NOT_IMPORTED

SERVICE = """
import sys
from mainstay.errors import Misconfigured
def serve():
    print("served", *sys.argv[1:])
    return 5
def quiet(): pass
def refuse(): raise Misconfigured("APP_PORT is 'x': a number is accepted")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "refusing.py").write_text(SERVICE + "refuse()")
    (tmp_path / "broken.py").write_text("import not_there_at_all")
    (tmp_path / "server.py").write_text("import sys\nprint('server', *sys.argv)\nsys.exit(3)")
    return tmp_path


def begin(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mainstay.processes.start", *arguments],
        env={**os.environ, "PYTHONPATH": str(folder), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_function_is_called_and_returns_the_exit_code(folder: Path) -> None:
    done = begin(folder, "service:serve", "--option")
    assert (done.returncode, done.stdout) == (5, "served --option\n")
    assert begin(folder, "service:quiet").returncode == 0


def test_a_server_runs_in_the_same_process_once_the_target_is_imported(folder: Path) -> None:
    done = begin(folder, "service:serve", "--", "server", "--port", "1")
    assert done.returncode == 3
    assert done.stdout.split()[0] == "server"
    assert done.stdout.split()[-2:] == ["--port", "1"]


def test_garbage_is_collected_again_once_the_target_is_imported(folder: Path) -> None:
    script = "import gc\nimported = gc.isenabled()\ndef serve(): print(imported, gc.isenabled())"
    (folder / "watching.py").write_text(script)
    assert begin(folder, "watching:serve").stdout == "False True\n"


@pytest.mark.parametrize(
    "arguments", [("service:refuse",), ("refusing:serve", "--", "server"), ("refusing:serve",)]
)
def test_bad_configuration_is_one_message_and_exit_code_78(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    done = begin(folder, *arguments)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "APP_PORT is 'x': a number is accepted\n"


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("nowhere.api:app", "'nowhere'"),
        ("service.api:app", "'service.api'"),
        ("service:ap", "'ap'"),
    ],
)
def test_a_target_that_is_not_there_is_bad_configuration(
    folder: Path, target: str, named: str
) -> None:
    done = begin(folder, target)
    assert done.returncode == 78
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_that_cannot_import_something_shows_where_and_no_more(folder: Path) -> None:
    done = begin(folder, "broken:app")
    assert done.returncode == 1
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("Traceback")
    assert "broken.py" in second
    assert done.stderr.endswith("No module named 'not_there_at_all'\n")


def test_dev_is_told_that_only_a_change_will_help(folder: Path) -> None:
    assert begin(folder, "broken:app", MAINSTAY_RUN="1").returncode == NOT_IMPORTED


def test_a_module_that_is_no_python_shows_the_place(folder: Path) -> None:
    (folder / "slip.py").write_text("def slip(:\n    pass\n")
    done = begin(folder, "slip:app")
    assert done.returncode == 1
    assert "slip.py" in done.stderr.splitlines()[0]
    assert done.stderr.endswith("SyntaxError: invalid syntax\n")


def test_what_a_function_raises_goes_where_the_service_logs(folder: Path) -> None:
    (folder / "crashing.py").write_text(
        "import sys\n"
        "def serve():\n"
        "    sys.excepthook = lambda kind, error, stack: print('logged', error, stack.tb_lineno)\n"
        "    raise ValueError('too much')\n"
    )
    done = begin(folder, "crashing:serve")
    assert (done.returncode, done.stdout, done.stderr) == (1, "logged too much 4\n", "")
