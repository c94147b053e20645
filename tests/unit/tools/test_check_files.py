"""What the commit hook finds in text files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_files import findings, main


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("a.yaml", "key: [1\n", "does not parse"),
        ("a.toml", "key =\n", "does not parse"),
        ("a.json", "{,}\n", "does not parse"),
        ("a.py", "x = 1 \n", "stray whitespace"),
        ("a.py", "x = 1", "stray whitespace"),
        ("a.py", "x = 1\r\n", "stray whitespace"),
        ("a.py", "<<<<<<< ours\nx = 1\n=======\n", "merge conflict"),
        ("a.txt", "x" * (1024 * 1024) + "\n", "larger than"),
        ("results.db", "SQLite format 3\0", "database of SQLite"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, finding: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert main([str(path)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: ")
    assert finding in line


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.yaml", "a: 1\n---\nb: 2\n"), ("a.toml", "a = 1\n"), ("a.json", "[]\n"), ("a.py", "")],
)
def test_a_sound_file_is_not_mentioned(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert list(findings(path)) == []


def test_what_is_no_text_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"ab\xff")
    assert list(findings(path)) == ["is not UTF-8 at byte 2"]


def test_whitespace_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"x = 1 \r\n\r\n\r\n")
    assert main(["--fix", str(path)]) == 0
    assert path.read_bytes() == b"x = 1\n"


def test_what_cannot_be_mended_is_still_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    assert main(["--fix", str(path)]) == 1
    assert "does not parse" in capsys.readouterr().out


def test_files_of_others_and_pictures_are_left_as_they_came(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    vendored, picture = tmp_path / "static" / "LICENSE", tmp_path / "a.png"
    vendored.write_bytes(b"as it came \n")
    picture.write_bytes(b"\x89PNG\0\xff ")
    assert main(["--fix", str(vendored), str(picture), str(tmp_path / "removed")]) == 0
    assert vendored.read_bytes() == b"as it came \n"
