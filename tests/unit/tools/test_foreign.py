"""Foreign suites: what is unpacked is complete, and the comparison of two runs is right."""

from __future__ import annotations

import tarfile
import threading
from pathlib import Path

import pytest

from tools.foreign.environments import constraints_without
from tools.foreign.results import (
    Outcome,
    Reason,
    Report,
    Result,
    compare,
    explained,
    parse,
    reasons_of,
    table,
)
from tools.foreign.sources import pinned_version, unpacked

PASSED, FAILED, SKIPPED = (
    Result(Outcome.PASSED),
    Result(Outcome.FAILED, "boom"),
    Result(Outcome.SKIPPED),
)


def archive_in(folder: Path, package: str, version: str) -> Path:
    """Do what a download does, without a network."""
    top = folder / "made" / f"{package}-{version}"
    (top / "tests").mkdir(parents=True)
    (top / "tests" / "test_one.py").write_text("def test_one(): pass\n")
    archive = folder / f"{package}-{version}.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(top, top.name)
    return archive


def made(package: str, version: str, folder: Path) -> Path:
    return archive_in(folder, package, version)


def test_sources_are_unpacked_once(tmp_path: Path) -> None:
    fetched: list[str] = []

    def fetch(package: str, version: str, folder: Path) -> Path:
        fetched.append(version)
        return archive_in(folder, package, version)

    first = unpacked("orders", "1.0", folder=tmp_path, fetch=fetch)
    second = unpacked("orders", "1.0", folder=tmp_path, fetch=fetch)
    assert first == second == tmp_path / "orders-1.0"
    assert (first / "tests" / "test_one.py").is_file()
    assert fetched == ["1.0"]
    assert {path.name for path in tmp_path.iterdir()} == {".installation.lock", "orders-1.0"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_download_is_done_again(tmp_path: Path, error: type[BaseException]) -> None:
    def broken(package: str, version: str, folder: Path) -> Path:
        archive_in(folder, package, version)
        raise error

    with pytest.raises(error):
        unpacked("orders", "1.0", folder=tmp_path, fetch=broken)
    assert not (tmp_path / "orders-1.0").exists()
    assert unpacked("orders", "1.0", folder=tmp_path, fetch=made).is_dir()


def test_half_an_archive_is_never_taken_for_the_sources(tmp_path: Path) -> None:
    def cut(package: str, version: str, folder: Path) -> Path:
        archive = archive_in(folder, package, version)
        archive.write_bytes(archive.read_bytes()[:-40])
        return archive

    with pytest.raises((EOFError, tarfile.TarError)):
        unpacked("orders", "1.0", folder=tmp_path, fetch=cut)
    assert not (tmp_path / "orders-1.0").exists()


def test_what_a_killed_download_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "partial-killed" / "contents").mkdir(parents=True)
    unpacked("orders", "1.0", folder=tmp_path, fetch=made)
    assert not (tmp_path / "partial-killed").exists()


def test_two_at_once_download_once(tmp_path: Path) -> None:
    fetching, go_on = threading.Event(), threading.Event()
    fetched: list[str] = []
    found: list[Path] = []

    def fetch(package: str, version: str, folder: Path) -> Path:
        fetched.append(version)
        fetching.set()
        assert go_on.wait(60)
        return archive_in(folder, package, version)

    def work() -> None:
        found.append(unpacked("orders", "1.0", folder=tmp_path, fetch=fetch))

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    assert fetching.wait(60)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert found == [tmp_path / "orders-1.0"] * 2
    assert fetched == ["1.0"]


def test_an_archive_writes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    def hostile(package: str, version: str, folder: Path) -> Path:
        archive = folder / "hostile.tar.gz"
        (folder / "file").write_text("x")
        with tarfile.open(archive, "w:gz") as opened:
            opened.add(folder / "file", "../../../escaped")
        return archive

    with pytest.raises(tarfile.TarError):
        unpacked("orders", "1.0", folder=tmp_path / "foreign", fetch=hostile)
    assert not (tmp_path / "escaped").exists()


def test_the_version_is_the_pinned_one(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("flask-wtf==1.0\nFlask==3.1.3 ; python_version < '4'\n")
    assert pinned_version("flask", constraints) == "3.1.3"
    with pytest.raises(LookupError, match="celery is not pinned"):
        pinned_version("celery", constraints)


def test_a_suite_may_need_another_version_than_the_pinned_one() -> None:
    pins = "pytest==9.2.0\npytest-timeout==2.4.0\n"
    assert constraints_without(("pytest==9.0.2", "trio"), pins) == "pytest-timeout==2.4.0\n"


JUNIT = """<testsuites><testsuite>
<properties><property name="applications" value="7"/></properties>
<testcase classname="tests.test_a" name="test_one[x]" file="tests/test_a.py"/>
<testcase classname="tests.test_a.TestB" name="test_two" file="tests/test_a.py">
  <failure message="assert 1 == 2&#10;more">stack</failure></testcase>
<testcase classname="tests.test_a" name="test_three" file="tests/test_a.py"><skipped/></testcase>
<testcase classname="tests.test_a" name="test_four" file="tests/test_a.py"/>
<testcase classname="tests.test_a" name="test_four" file="tests/test_a.py">
  <error message="tear-down"/></testcase>
<testcase classname="" name="tests.test_c"><error message="collection failure"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_read() -> None:
    report = parse(JUNIT)
    assert report.properties == {"applications": "7"}
    assert report.results == {
        "tests/test_a.py::test_one[x]": PASSED,
        "tests/test_a.py::TestB::test_two": Result(Outcome.FAILED, "assert 1 == 2"),
        "tests/test_a.py::test_three": SKIPPED,
        "tests/test_a.py::test_four": Result(Outcome.FAILED, "tear-down"),
        "tests.test_c": Result(Outcome.FAILED, "collection failure"),
    }


BARE = {"a": PASSED, "b": PASSED, "c": FAILED, "d": FAILED, "e": SKIPPED, "f": PASSED}
OURS = {"a": PASSED, "b": FAILED, "c": PASSED, "d": FAILED, "e": SKIPPED, "g": PASSED}


def test_differences_both_ways_and_absent_tests_are_found() -> None:
    comparison = compare(BARE, OURS)
    assert [(one.test, one.bare.outcome, one.ours.outcome) for one in comparison.differences] == [
        ("b", "passed", "failed"),
        ("c", "failed", "passed"),
        ("f", "passed", "absent"),
        ("g", "absent", "passed"),
    ]
    assert comparison.agreed == {Outcome.PASSED: 1, Outcome.FAILED: 1, Outcome.SKIPPED: 1}


def test_the_table_has_the_counts_and_a_reason_for_each_difference() -> None:
    text = table(compare(BARE, OURS), [Reason("on purpose", ("b", "c", "old*"))], "orders")
    assert (
        "Both pass: 1; both fail: 1; both skip: 1; different: 4, of which unexplained: 2." in text
    )
    assert "| `b` | passed | failed | boom | on purpose |" in text
    assert "| `c` | failed | passed | boom | on purpose |" in text
    assert "| `f` | passed | absent |  | **unexplained** |" in text
    assert "Explains nothing: `old*`" in text


def test_a_reason_holds_for_its_tests_and_runs_alone() -> None:
    reasons = reasons_of(
        '[[difference]]\nreason = "by design"\nruns = ["redis"]\n'
        'tests = ["t.py::test_a[1]", "t.py::test_b*"]\n'
    )
    comparison = compare(
        {"t.py::test_a[1]": PASSED, "t.py::test_a1": PASSED, "t.py::test_b[2]": PASSED},
        {"t.py::test_a[1]": FAILED, "t.py::test_a1": FAILED, "t.py::test_b[2]": FAILED},
    )
    rows, stale = explained(comparison, reasons, "redis")
    assert [text for _, text in rows] == ["by design", "", "by design"]
    assert not stale
    rows, stale = explained(comparison, reasons, "rabbitmq")
    assert [text for _, text in rows] == ["", "", ""]
    assert not stale


def test_a_reason_that_depends_on_speed_is_shown_and_may_explain_nothing() -> None:
    reasons = reasons_of(
        '[[difference]]\nreason = "takes long"\ntests = ["slow", "other"]\n'
        "depends_on_speed = true\n"
    )
    differs = compare({"slow": PASSED}, {"slow": FAILED})
    assert "| `slow` | passed | failed | boom | takes long (depends on speed) |" in table(
        differs, reasons, "redis"
    )
    assert explained(differs, reasons, "redis")[1] == []
    assert "Explains nothing" not in table(
        compare({"slow": PASSED}, {"slow": PASSED}), reasons, "redis"
    )


@pytest.mark.parametrize(
    ("ours", "is_whole", "status"),
    [
        ({"known": FAILED, "new": PASSED}, True, 0),
        ({"known": FAILED, "new": FAILED}, True, 1),
        ({"known": PASSED, "new": PASSED}, True, 1),
        ({"known": PASSED, "new": PASSED}, False, 0),
    ],
)
def test_the_exit_status_tells_whether_the_reasons_still_are_right(
    ours: dict[str, Result],
    is_whole: bool,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tools.foreign import __main__ as program

    (tmp_path / "orders.toml").write_text('[[difference]]\nreason = "known"\ntests = ["known"]\n')
    monkeypatch.setattr(program, "REASONS", tmp_path)
    bare = Report({"known": PASSED, "new": PASSED})
    output = tmp_path / "table.md"
    pairs = {"orders": (bare, Report(ours))}
    assert program.report("orders", pairs, is_whole=is_whole, output=output) == status
    assert output.read_text().startswith("### orders")
