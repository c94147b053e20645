"""Which services a change of files concerns, and the thread that notices the change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import mainstay

__all__ = ["Watcher", "affected", "is_source", "library_folder"]

_IGNORED = frozenset(
    {
        *(".git", ".hg", ".mainstay", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox"),
        *(".venv", "__pycache__", "dist", "node_modules", "site-packages", "venv"),
    }
)
_SUFFIXES = frozenset(
    {".cfg", ".env", ".html", ".ini", ".jinja", ".json", ".py", ".sql", ".toml", ".yaml", ".yml"}
)


def is_source(path: Path, watched: Iterable[Path]) -> bool:
    """Tell whether a process may depend on the file at *path*, which lies below one *watched*."""
    for folder in watched:
        if path.is_relative_to(folder):
            path = path.relative_to(folder)
    if _IGNORED.intersection(path.parts):
        return False
    return path.suffix in _SUFFIXES or path.name == ".env"


def affected(changed: Iterable[Path], services: Mapping[str, Path], library: Path) -> set[str]:
    """Return the services that *changed* files belong to: all of them for the library's own.

    A file belongs to the service in whose folder it lies; where folders lie in one another, to
    the innermost.
    """
    found: set[str] = set()
    for path in changed:
        if path.is_relative_to(library):
            return set(services)
        holding = [name for name, folder in services.items() if path.is_relative_to(folder)]
        deepest = max((len(services[name].parts) for name in holding), default=0)
        found |= {name for name in holding if len(services[name].parts) == deepest}
    return found


def library_folder() -> Path:
    """Return the folder of this library's own source."""
    return Path(mainstay.__file__).resolve().parent


class Watcher:
    """Tells about changed files, some at a time, from a thread of its own.

    Args:
        folders: What is watched, with all below.
        changed: Called with the changed files once it is quiet for a moment.
        failed: Called with a reason when watching is not possible.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        *,
        changed: Callable[[set[Path]], None],
        failed: Callable[[str], None],
    ) -> None:
        self._folders = _outermost(folder for folder in folders if folder.is_dir())
        self._changed, self._failed = changed, failed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; may be called twice."""
        self._stop.set()

    def _watch(self) -> None:
        try:
            from watchfiles import watch
        except ImportError:
            self._failed("watchfiles is not installed: pip install 'mainstay[embedded]'")
            return
        try:
            for changes in watch(
                *self._folders,
                watch_filter=lambda _, path: is_source(Path(path), self._folders),
                debounce=1000,
                step=100,
                stop_event=self._stop,
                rust_timeout=500,
                yield_on_timeout=False,
                ignore_permission_denied=True,
            ):
                self._changed({Path(path) for _, path in changes})
        except (OSError, RuntimeError) as error:  # such as too many folders for the system
            self._failed(str(error))


def _outermost(folders: Iterable[Path]) -> list[Path]:
    kept: list[Path] = []
    for folder in sorted(set(folders), key=lambda each: len(each.parts)):
        if not any(folder.is_relative_to(outer) for outer in kept):
            kept.append(folder)
    return kept
