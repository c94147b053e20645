"""Download and unpack the source distribution of a pinned package; a source distribution has tests.

Everything is kept in ``.foreign/``, which is not in the repository.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.environment import ROOT, locked

CONSTRAINTS = ROOT / "constraints.txt"
FOLDER = ROOT / ".foreign"

_PARTIAL = "partial-"


def pinned_version(package: str, constraints: Path = CONSTRAINTS) -> str:
    """Return the version of *package* in *constraints*.

    Raises:
        LookupError: The package is not pinned there.
    """
    for line in constraints.read_text().splitlines():
        pin = Requirement(line)
        if canonicalize_name(pin.name) == canonicalize_name(package):
            return next(iter(pin.specifier)).version
    raise LookupError(f"{package} is not pinned in {constraints}")


def download(package: str, version: str, folder: Path) -> Path:
    """Download the source distribution of *package* into *folder* with pip.

    uv cannot download without installing.

    Raises:
        SystemExit: pip failed; its message is on standard error.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    options = ["--no-binary", package, "--dest", str(folder), f"{package}=={version}"]
    if subprocess.run([*pip, *options], check=False).returncode:
        sys.exit(f"the source distribution of {package} {version} could not be downloaded")
    [archive] = folder.glob("*.tar.gz")
    return archive


def unpacked(
    package: str,
    version: str,
    *,
    folder: Path = FOLDER,
    fetch: Callable[[str, str, Path], Path] = download,
) -> Path:
    """Return the folder with the sources of *package*, downloading them when they are absent.

    The folder gets its name when it is complete, so an interrupted download leaves nothing that
    looks complete. Of two processes the second one waits for the first.

    Args:
        package: Name on PyPI.
        version: Exact version.
        folder: Where sources are kept.
        fetch: Downloads the archive into the folder that it is given, and returns its path.
    """
    target = folder / f"{package}-{version}"
    with locked(folder):
        # The process that made these has ended: it would hold the lock.
        for partial in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(partial)
        if target.is_dir():
            return target
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder) as name:
            partial = Path(name)
            archive = fetch(package, version, partial)
            contents = partial / "contents"
            with tarfile.open(archive) as opened:
                opened.extractall(contents, filter="data")
            [top] = contents.iterdir()
            top.rename(target)
    return target
