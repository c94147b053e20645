"""Sources of a test's own: an empty folder, no environment, nothing of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mainstay.config import Settings, Sources

Load = Callable[..., Settings]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that the process starts in."""
    path = tmp_path / "service"
    path.mkdir()
    return path


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What stands for /run/secrets."""
    path = tmp_path / "secrets"
    path.mkdir()
    return path


@pytest.fixture
def load(folder: Path, secrets: Path) -> Load:
    """Load settings out of variables, and of what the test has put into the folders."""

    def load(
        environ: Mapping[str, str] | None = None,
        kind: type[Settings] = Settings,
        embedded: bool = False,
        **overrides: Any,
    ) -> Settings:
        sources = Sources(folder, environ or {}, secrets=secrets, embedded=embedded)
        return kind.load_from(sources, **overrides)

    return load
