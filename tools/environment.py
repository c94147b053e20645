"""Make ``.venv`` hold what a verb of the Makefile needs; return at once when it already does.

Usage: ``python tools/environment.py run|dev``. ``run`` is the library with all of its extras,
``dev`` adds what tests and checks need. Versions are those of ``constraints.txt``.

One process at a time installs; others wait for it. An installation that was interrupted or has
failed is never taken for complete, and the next run repairs it.

Keeps to the syntax of Python 3.7, so that a Python that is too old for the library is told so.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = str(VENV / "bin" / "python")
OLDEST = (3, 11)
KNOWN_PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")
VERSION = "{}.{}".format(*sys.version_info[:2])
STAMPS = {verb: VENV / f".installed-{verb}" for verb in ("run", "dev")}
LOCK = ".installation.lock"  # `.lock` is uv's own
UNFINISHED = ".unfinished"


def main(verb: str) -> None:
    use_a_python_that_is_new_enough()
    if is_installed(verb):
        return
    with locked(VENV) as lock:
        if is_installed(verb):  # by the process that held the lock
            return
        unfinished = VENV / UNFINISHED
        was_interrupted = unfinished.exists()
        was_complete = any(stamp.exists() for stamp in STAMPS.values())
        write(unfinished, "")
        for stamp in STAMPS.values():
            remove(stamp)
        if was_interrupted or not venv_is_good():
            make_venv(lock)
            was_complete = True
        is_complete = install(verb, lock, again=not was_complete)
        if is_complete:
            # What `dev` installs covers `run`.
            for covered in {verb, "run"}:
                write(STAMPS[covered], fingerprint(covered))
        # An installer that failed ended in order: the next run installs over what it left.
        remove(unfinished)
    if not is_complete:
        sys.exit("Mainstay could not be installed: the reason that pip gave stands above.")


def use_a_python_that_is_new_enough() -> None:
    """Start again under a newer Python of this machine, or say in one line that there is none."""
    if sys.version_info[:2] >= OLDEST:
        return
    for name in KNOWN_PYTHONS:
        path = shutil.which(name)
        if path and "PYTHON" not in os.environ:
            os.execv(path, [path, *sys.argv])  # noqa: S606 - no shell is wanted
    sys.exit(
        f"Mainstay needs Python 3.11 or newer and {sys.executable} is {VERSION}: "
        "install one (Debian: python3), or name it: make PYTHON=/path/to/python3"
    )


def fingerprint(verb: str) -> str:
    """Name everything that decides what is installed, so that a change of any of it is seen."""
    digest = hashlib.sha256(f"{verb} {VERSION} {VENV}".encode())
    for name in ("pyproject.toml", "constraints.txt", "tools/environment.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def is_installed(verb: str) -> bool:
    try:
        return STAMPS[verb].read_text() == fingerprint(verb)
    except OSError:
        return False


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the right to install into *folder*, which is made; wait while another process has it.

    Yields a descriptor to pass to the installer (``pass_fds``): should this process be killed,
    the lock is held until the installer has ended, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        lock = os.open(str(folder / LOCK), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"Waiting for another process that installs into {folder}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if is_open_at(folder / LOCK, lock):
                yield lock
                return
        finally:
            os.close(lock)
        # The folder was removed while this process waited.
        folder.mkdir(parents=True, exist_ok=True)


def is_open_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def clear(folder: Path) -> None:
    """Remove all from *folder* but its lock and the mark that it is unfinished."""
    for path in folder.iterdir():
        if path.name in (LOCK, UNFINISHED):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        else:
            path.unlink()


def write(path: Path, text: str) -> None:
    """Write a file that is there with all of *text*, or not at all."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text)
    new.replace(path)


def remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def make_venv(lock: int) -> None:
    """Create ``.venv``, in place of whatever is there."""
    try:
        import ensurepip  # noqa: F401 - asked for because Debian packs it apart
        import venv  # noqa: F401 - likewise
    except ImportError:
        of_debian = Path("/usr/bin/python3").resolve() == Path(sys.executable).resolve()
        package = "python3-venv" if of_debian else f"python{VERSION}-venv"
        sys.exit(f"Mainstay needs the venv module of Python {VERSION}: apt-get install {package}")
    say(f"Making .venv with Python {VERSION}")
    python = python_outside_of_venv()
    # Not with `--clear`: it removes the lock too.
    clear(VENV)
    subprocess.run([python, "-m", "venv", str(VENV)], check=True, pass_fds=[lock])


def python_outside_of_venv() -> str:
    """Return the Python that runs this, under a name that is still there without ``.venv``."""
    python = getattr(sys, "_base_executable", sys.executable)
    return os.path.realpath(python) if VENV in Path(python).parents else python


def venv_is_good() -> bool:
    """Tell whether ``.venv`` was made here, with this Python, and has a working pip."""
    ask = "import pip, sys; print('{}.{}'.format(*sys.version_info[:2]))"
    try:
        made_here = str(VENV) in (VENV / "bin" / "activate").read_text()
        answer = subprocess.check_output([VENV_PYTHON, "-c", ask], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return False
    return made_here and answer.decode().strip() == VERSION


def install(verb: str, lock: int, again: bool) -> bool:
    """Return whether all that *verb* needs is installed; *again*, whatever is there already."""
    say("Installing Mainstay" + (" and its development tools" if verb == "dev" else ""))
    wanted = ["-c", "constraints.txt", "-e", ".[all]"]
    if verb == "dev":
        wanted += development_requirements()
    if install_uv(lock) and uv_installs(wanted, lock, again):
        return True
    pip = [VENV_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if again:
        pip.append("--force-reinstall")
    return succeeds([*pip, *wanted], lock)


def development_requirements() -> list[str]:
    import tomllib  # since Python 3.11

    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(pyproject["dependency-groups"]["dev"])


def install_uv(lock: int) -> bool:
    """Install uv, many times faster than pip; where it has no wheel, pip does its work."""
    pip = [VENV_PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    uv = ["--only-binary", ":all:", "-c", "constraints.txt", "uv"]
    return succeeds([*pip, *uv], lock, stderr=subprocess.DEVNULL)


def uv_installs(wanted: list[str], lock: int, again: bool) -> bool:
    # Compiled once here, not by each of the processes that are about to start.
    options = ["--quiet", "--compile-bytecode", "--python", VENV_PYTHON]
    if again:
        options.append("--reinstall")
    uv = [VENV_PYTHON, "-m", "uv", "pip", "install", *options]
    if succeeds([*uv, *wanted], lock, env=environment_of_uv()):
        return True
    say("uv could not install; trying pip")
    return False


def succeeds(installer: list[str], lock: int, **options: Any) -> bool:
    ended = subprocess.run(installer, cwd=str(ROOT), pass_fds=[lock], check=False, **options)
    if ended.returncode < 0:  # by a signal, at an unknown point
        sys.exit(f"{installer[2]} was ended by signal {-ended.returncode}")
    return ended.returncode == 0


def environment_of_uv() -> dict[str, str]:
    """Hand pip's settings to uv, which does not read them: who has a mirror means it to be used."""
    listed = subprocess.check_output([VENV_PYTHON, "-m", "pip", "config", "list"], cwd=ROOT)
    settings = {}
    for line in listed.decode().splitlines():
        # global.index-url='…', install.index-url='…', :env:.index-url='…'
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ").split()
    environment = dict(os.environ)
    for option, variable, separator in (
        ("index-url", "UV_DEFAULT_INDEX", " "),
        ("extra-index-url", "UV_INDEX", " "),
        ("find-links", "UV_FIND_LINKS", ","),
        ("trusted-host", "UV_INSECURE_HOST", " "),
        ("no-index", "UV_NO_INDEX", " "),
        ("cert", "SSL_CERT_FILE", " "),
    ):
        if settings.get(option):
            environment.setdefault(variable, separator.join(settings[option]))
    if settings.get("extra-index-url"):
        # As pip does: the newest version that any of the indexes has.
        environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return environment


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] not in (["run"], ["dev"]):
        sys.exit("usage: python tools/environment.py run|dev")
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("Interrupted: the next run makes .venv again.")
