"""Are text files whole: no stray whitespace or conflict marker, and YAML, TOML, JSON that parse?

Usage: ``python tools/check_files.py [--fix] FILE…``. Prints a line per finding, nothing when all
is well; ``--fix`` mends whitespace.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

LARGEST_BYTES = 1024 * 1024
_CONFLICT = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
# Diffs are quoted as they are.
_KEEP_WHITESPACE = {".diff", ".patch"}
# Files of others are kept as they came, with their licences.
_VENDORED = "static"
_LOOKED_AT_BYTES = 8192
_DATABASE = b"SQLite format 3\0"


def main(arguments: list[str]) -> int:
    fix = "--fix" in arguments
    found = 0
    for name in arguments:
        path = Path(name)
        # A file that is tracked may have been removed since.
        if name == "--fix" or not path.is_file():
            continue
        if fix:
            mend(path)
        for finding in findings(path):
            print(f"{name}: {finding}")
            found += 1
    return 1 if found else 0


def mend(path: Path) -> None:
    """Clean the whitespace of a text file, where it is ours to clean."""
    text = text_of(path)
    if text is not None and is_ours(path) and text != with_clean_whitespace(text):
        path.write_text(with_clean_whitespace(text), encoding="utf-8")


def findings(path: Path) -> Iterator[str]:
    """Tell what is wrong with one file."""
    if path.stat().st_size > LARGEST_BYTES:
        yield f"is larger than {LARGEST_BYTES:,} bytes: does it belong in the repository?"
    try:
        text = text_of(path)
    except UnicodeDecodeError as error:
        yield f"is not UTF-8 at byte {error.start}"
        return
    if text is None:
        if path.read_bytes().startswith(_DATABASE):
            yield "is a database of SQLite: does it belong in the repository?"
        return
    if is_ours(path) and text != with_clean_whitespace(text):
        yield "has stray whitespace: make format"
    if _CONFLICT.search(text) and path.suffix not in {".rst", ".md"}:
        yield "has a merge conflict marker"
    parse = _PARSERS.get(path.suffix)
    if parse is not None:
        try:
            parse(text)
        except (ValueError, yaml.YAMLError) as error:
            yield f"does not parse: {' '.join(str(error).split())}"


def text_of(path: Path) -> str | None:
    """Return a file's text, or ``None`` when it is no text at all."""
    content = path.read_bytes()
    return None if b"\0" in content[:_LOOKED_AT_BYTES] else content.decode()


def is_ours(path: Path) -> bool:
    return path.suffix not in _KEEP_WHITESPACE and _VENDORED not in path.parts


def with_clean_whitespace(text: str) -> str:
    """Return *text* with unix line ends, none of them after blanks, and exactly one at the end."""
    lines = [line.rstrip() for line in text.split("\n")]
    clean = "\n".join(lines).rstrip("\n")
    return clean + "\n" if clean else ""


def _yaml(text: str) -> object:
    return list(yaml.safe_load_all(text))


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": _yaml,
    ".yml": _yaml,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
