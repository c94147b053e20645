"""Make ``.venv`` hold what a verb of the Makefile needs; return at once when it already does.

Usage: ``python tools/environment.py run|dev``. ``run`` is the library with all of its extras,
``dev`` adds what tests and checks need. Versions are those of ``constraints.txt``.

Keeps to the syntax of Python 3.7, so that a Python that is too old for the library is told so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = str(VENV / "bin" / "python")
OLDEST = (3, 11)
KNOWN_PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")
VERSION = "{}.{}".format(*sys.version_info[:2])


def main(verb: str) -> None:
    use_a_python_that_is_new_enough()
    if stamp(verb) == fingerprint(verb):
        return
    make_venv()
    install(verb)
    # What `dev` installs covers `run`.
    for covered in {verb, "run"}:
        (VENV / f".installed-{covered}").write_text(fingerprint(covered))


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


def stamp(verb: str) -> str:
    try:
        return (VENV / f".installed-{verb}").read_text()
    except OSError:
        return ""


def make_venv() -> None:
    """Create ``.venv``, or keep one that was made here, with this Python, and has a working pip."""
    if venv_is_good():
        return
    try:
        import ensurepip  # noqa: F401 - asked for because Debian packs it apart
        import venv  # noqa: F401 - likewise
    except ImportError:
        of_debian = Path("/usr/bin/python3").resolve() == Path(sys.executable).resolve()
        package = "python3-venv" if of_debian else f"python{VERSION}-venv"
        sys.exit(f"Mainstay needs the venv module of Python {VERSION}: apt-get install {package}")
    say(f"Making .venv with Python {VERSION}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)


def venv_is_good() -> bool:
    ask = "import pip, sys; print('{}.{}'.format(*sys.version_info[:2]))"
    try:
        made_here = str(VENV) in (VENV / "bin" / "activate").read_text()
        answer = subprocess.check_output([VENV_PYTHON, "-c", ask], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return False
    return made_here and answer.decode().strip() == VERSION


def install(verb: str) -> None:
    say("Installing Mainstay" + (" and its development tools" if verb == "dev" else ""))
    wanted = ["-c", "constraints.txt", "-e", ".[all]"]
    if verb == "dev":
        wanted += development_requirements()
    if install_uv() and uv_installs(wanted):
        return
    pip = [VENV_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, *wanted], cwd=ROOT, check=False).returncode:
        sys.exit("Mainstay could not be installed: the reason that pip gave stands above.")


def development_requirements() -> list[str]:
    import tomllib  # since Python 3.11

    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(pyproject["dependency-groups"]["dev"])


def install_uv() -> bool:
    """Install uv, many times faster than pip; where it has no wheel, pip does its work."""
    pip = [VENV_PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    uv = ["--only-binary", ":all:", "-c", "constraints.txt", "uv"]
    installed = subprocess.run([*pip, *uv], cwd=ROOT, stderr=subprocess.DEVNULL, check=False)
    return installed.returncode == 0


def uv_installs(wanted: list[str]) -> bool:
    # Compiled once here, not by each of the processes that are about to start.
    options = ["--quiet", "--compile-bytecode", "--python", VENV_PYTHON]
    uv = [VENV_PYTHON, "-m", "uv", "pip", "install", *options]
    installed = subprocess.run([*uv, *wanted], cwd=ROOT, env=environment_of_uv(), check=False)
    if installed.returncode:
        say("uv could not install; trying pip")
    return installed.returncode == 0


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
    main(sys.argv[1])
