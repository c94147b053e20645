"""The table of `make test-versions`: what was installed, and the outcomes of its tests."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import tools.versions
from tools.venvs import Venv
from tools.versions import (
    AREAS,
    ROOT,
    SHARED,
    VARIED,
    counted,
    main,
    make,
    report,
    resolve,
    unvaried,
    versions,
)

JUNIT = """<testsuites><testsuite>
  <testcase file="tests/unit/http/fastapi/test_app.py" name="test_one" />
  <testcase file="tests/unit/http/flask/test_app.py" name="test_one"><failure /></testcase>
  <testcase file="tests/contract/http/test_answers.py" name="test_one[flask]" />
  <testcase file="tests/contract/http/test_work.py" name="test_one[fastapi]"><skipped /></testcase>
  <testcase file="tests/contract/tasks/test_beat.py" name="test_one[redis]"><error /></testcase>
</testsuite></testsuites>"""
FASTAPI, FLASK = ("fastapi", "starlette"), ("flask", "werkzeug")
INSTALLED = dict.fromkeys(VARIED, "1.0")


def test_each_test_is_counted_for_the_framework_that_it_concerns() -> None:
    results = counted(JUNIT)

    assert results[FASTAPI] == {"passed": 1, "skipped": 1}
    assert results[FLASK] == {"passed": 1, "failed": 1}
    assert next(counts for area, counts in results.items() if "celery" in area) == {"failed": 1}


def test_the_table_names_the_versions_and_counts_their_tests() -> None:
    lines, is_good = report({"oldest": (INSTALLED | {"starlette": "0.40.0"}, counted(JUNIT))})

    assert lines[0].split() == ["versions", "passed", "failed", "skipped"]
    assert lines[1].split("  ")[0] == "oldest"
    assert "fastapi 1.0, starlette 0.40.0" in lines[1]
    assert lines[1].split()[-3:] == ["1", "0", "1"]
    assert not is_good


def test_a_framework_without_a_test_that_passed_is_a_failure() -> None:
    passed = {area.packages: counted(JUNIT)[FLASK] for area in AREAS}
    for counts in passed.values():
        del counts["failed"]

    assert report({"newest": (INSTALLED, passed)})[1]
    del passed[FASTAPI]
    assert not report({"newest": (INSTALLED, passed)})[1]


def test_a_failure_that_concerns_several_frameworks_is_a_failure() -> None:
    results = {area.packages: counted(JUNIT)[FASTAPI] for area in AREAS}
    shared = counted(
        '<t><testcase file="tests/contract/http/a.py" name="b[x]"><error /></testcase></t>'
    )

    assert report({"newest": (INSTALLED, results)})[1]
    assert list(shared) == [SHARED]
    lines, is_good = report({"newest": (INSTALLED, results | shared)})
    assert not is_good
    assert lines[-1].split()[-3:] == ["0", "1", "0"]


def test_what_is_varied_is_not_pinned() -> None:
    pins = "celery==5.7.0\nclick==8.1 ; sys_platform == 'linux'\nflask==3.1.3\nflask-x==1.0\n"

    assert unvaried(pins) == "click==8.1 ; sys_platform == 'linux'\nflask-x==1.0\n"
    assert versions(pins.splitlines()) == {"celery": "5.7.0", "flask": "3.1.3"}


def test_each_area_has_its_tests() -> None:
    assert [path for area in AREAS for path in area.tests if not (ROOT / path).exists()] == []


ALL_PASS = "".join(
    f'<testcase file="{area.tests[0]}/test_one.py" name="test_one[{area.parameter}]" />'
    for area in AREAS
)


class Pytest:
    """Take the place of pytest in the environments of the combinations."""

    def __init__(self, folder: Path) -> None:
        self.venv = Venv(folder)
        self.venv.python.parent.mkdir(parents=True)

    def will(self, code: int, cases: str) -> None:
        """Have it end with *code* and report *cases*."""
        (self.venv.folder / "results").write_text(f"<testsuite>{cases}</testsuite>")
        script = (
            "#!/bin/sh\n"
            "for word do case $word in --junit-xml=*) file=${word#*=};; esac; done\n"
            f'cp "{self.venv.folder}/results" "$file"\n'
            f"exit {code}\n"
        )
        self.venv.python.write_text(script)
        self.venv.python.chmod(0o755)


@pytest.fixture
def fake_pytest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pytest:
    fake = Pytest(tmp_path / "environment")
    monkeypatch.setattr(tools.versions, "FOLDER", tmp_path)
    monkeypatch.setattr(tools.versions, "Venv", lambda _: fake.venv)
    monkeypatch.setattr(tools.versions, "resolve", lambda _: [])
    monkeypatch.setattr(tools.versions, "make", lambda *_: None)
    return fake


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_a_run_that_pytest_does_not_call_good_is_a_failure(
    code: int, fake_pytest: Pytest, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_pytest.will(code, ALL_PASS)

    assert main(["--only", "oldest"]) == (1 if code else 0)
    assert (f"oldest: pytest ended with exit code {code}" in capsys.readouterr().out) is bool(code)


@pytest.mark.parametrize(
    ("words", "status"),
    [([], 1), (["--numprocesses=4"], 1), (["-k", "redis"], 0), (["--deselect=a"], 0)],
)
def test_an_area_may_lack_tests_when_the_arguments_select_some(
    words: list[str], status: int, fake_pytest: Pytest
) -> None:
    fake_pytest.will(0, '<testcase file="tests/unit/rpc/test_client.py" name="test_one" />')

    assert main(["--only", "oldest", *words]) == status


def test_an_environment_gets_its_own_pins_when_another_run_chooses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run chooses its versions before the first one has installed its own."""
    chosen = iter(("flask==3.0.0\n", "flask==3.0.1\n"))
    installed = []

    def choose(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        Path(command[command.index("--output-file") + 1]).write_text(next(chosen))
        return subprocess.CompletedProcess(command, 0)

    def install(_: Venv, requirements: Sequence[str], fingerprint: str) -> None:
        file = requirements[requirements.index("--requirement") + 1]
        installed.append((Path(file).read_text().splitlines(), fingerprint))

    monkeypatch.setattr(tools.versions, "environment_of_uv", dict)
    monkeypatch.setattr(subprocess, "run", choose)
    monkeypatch.setattr(Venv, "make", install)
    monkeypatch.setattr(tools.versions, "FOLDER", tmp_path)
    venv = Venv(tmp_path / "oldest")

    first, second = resolve("oldest"), resolve("oldest")
    make(venv, first)
    make(venv, second)

    assert [pins for pins, _ in installed] == [["flask==3.0.0"], ["flask==3.0.1"]]
    assert installed[0][1] != installed[1][1]
