"""The table of `make test-versions`: what was installed, and the outcomes of its tests."""

from __future__ import annotations

from tools.versions import AREAS, ROOT, SHARED, VARIED, counted, report, unvaried, versions

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
