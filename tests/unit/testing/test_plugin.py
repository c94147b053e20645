"""What becomes of a test whose server is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.testing import Redis, ServerFailed
from mainstay.testing.plugin import leave_out


def test_at_home_it_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no redis here"):
        leave_out("no redis here")


def test_in_ci_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no redis here"):
        leave_out("no redis here")


def test_a_server_that_is_not_installed_names_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Redis.program() is None
    with pytest.raises(ServerFailed, match="apt-get install redis-server"):
        Redis().start()
