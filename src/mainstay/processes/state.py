"""Where a project keeps what its runs leave behind: ``.mainstay/``, beside its manifest."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from mainstay.errors import MainstayError

__all__ = ["Lock", "kept_secrets", "project_mark", "reset", "state_folder", "write_private"]

FOLDER = ".mainstay"
_LOCK = "lock"


def project_mark(project: Path) -> str:
    """Return what tells this project's processes from all others: a hash of its path."""
    return hashlib.sha256(str(project.resolve()).encode()).hexdigest()[:16]


def state_folder(project: Path) -> Path:
    """Return the project's state folder, made on first use for this user alone.

    Where the project may not be written to, as in a read-only container, it is a folder of the
    same use under the temporary folder.

    Raises:
        MainstayError: The folder belongs to another user.
    """
    folder = project / FOLDER
    if not folder.exists() and not os.access(project, os.W_OK):
        folder = Path(tempfile.gettempdir()) / f"mainstay-{os.geteuid()}-{project_mark(project)}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
    except OSError:
        raise MainstayError(
            f"{folder} cannot be used: it belongs to another user, or may not be written to. "
            f"Run this as its owner, or remove the folder (it holds development data only)."
        ) from None
    return folder


def write_private(path: Path, text: str) -> None:
    """Write *text* to *path*, whole or not at all, readable by this user alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def kept_secrets(folder: Path, *names: str) -> dict[str, str]:
    """Return the secrets called *names*, each made once and then kept in ``secrets.json``.

    A secret is 43 characters of base64url: 32 random bytes.

    Raises:
        MainstayError: The file cannot be read as JSON.
    """
    path = folder / "secrets.json"
    try:
        kept = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        raise MainstayError(
            f"{path} is not JSON any more: restore it, or remove it and new secrets are made"
        ) from None
    missing = [name for name in names if not kept.get(name)]
    if missing:
        kept |= {name: secrets.token_urlsafe(32) for name in missing}
        write_private(path, json.dumps(kept, indent=2) + "\n")
    return {name: str(kept[name]) for name in names}


def reset(folder: Path) -> None:
    """Empty the state folder, all but the lock that its holder stands on."""
    for entry in folder.iterdir():
        if entry.name == _LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


class Lock:
    """Keeps two supervisors of one project apart; any death of the holder frees it.

    Args:
        folder: The project's state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK
        self._descriptor: int | None = None

    def take(self, *, patience_seconds: float = 1.0) -> None:
        """Take the lock, waiting a moment for readers that only ask whether it is held.

        Raises:
            MainstayError: Another process holds it; the message has its id.
        """
        deadline = time.monotonic() + patience_seconds
        while (descriptor := self._attempt()) is None:
            if time.monotonic() > deadline:
                raise MainstayError(
                    f"mainstay dev already runs in {self._path.parent.parent}, as process "
                    f"{self._holder()}: stop it first, or use it from this terminal as it is"
                )
            time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def _attempt(self) -> int | None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed the file between the two calls: then this is a
            # lock on nothing, and somebody else may hold the file that has its name now.
            if os.fstat(descriptor).st_ino == self._path.stat().st_ino:
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def _holder(self) -> str:
        try:
            return self._path.read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Give the lock back and remove its file; may be called twice."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
