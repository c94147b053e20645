"""What every service answers besides its business, and the pages as they leave it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from books.texts import TEXTS
from tests.services.books.platform import API

PAGES = ["/", "/groups", "/types"]


def test_health_names_everything_that_is_held_open(client: httpx.Client) -> None:
    for path in (f"{API}/health", "/health"):
        answer = client.get(path)
        assert answer.status_code == 200
        told = answer.json()
        assert (told["status"], told["service"]) == ("healthy", "books")
        assert {"database", "broker"} <= told["checks"].keys()


def test_the_database_is_asked(client: httpx.Client) -> None:
    told = client.get(f"{API}/db-status").json()
    assert told["status"] == "ok"
    assert 0 < told["latency_ms"] < 5_000


@pytest.mark.parametrize("page", PAGES)
def test_a_page_holds_no_script_and_nothing_from_elsewhere(client: httpx.Client, page: str) -> None:
    answer = client.get(page)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style| on\w+=| style=", answer.text)
    files = re.findall(r'(?:src|href)="([^"#]+)', answer.text)
    assert files
    for file in files:
        assert file.startswith("/"), file
        assert not file.startswith("//"), file
        assert client.get(file).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "language", "heading"),
    [
        ("ru-RU,ru;q=0.9,en;q=0.8", "ru", "Группы файлов книг"),
        ("en-GB,en", "en", "Book file groups"),
        ("de", "en", "Book file groups"),
        ("uk,ru;q=0.5,en;q=0.1", "ru", "Группы файлов книг"),
        ("", "en", "Book file groups"),
    ],
)
def test_the_browser_chooses_the_language(
    client: httpx.Client, accepted: str, language: str, heading: str
) -> None:
    answer = client.get("/groups", headers={"Accept-Language": accepted})
    assert answer.headers["content-language"] == language
    assert "accept-language" in answer.headers["vary"].lower()
    assert f'<html lang="{language}">' in answer.text
    assert f"<h1>{heading}</h1>" in answer.text


def test_a_browsers_cookies_alone_change_nothing(client: httpx.Client) -> None:
    page = client.get("/groups")
    cookies = {"Cookie": page.headers["set-cookie"].partition(";")[0], "Authorization": ""}
    refused = client.post(f"{API}/groups/", json={"id": 5}, headers=cookies)
    assert refused.status_code in (401, 403)
    assert client.get(f"{API}/groups/5").status_code == 404


def test_every_language_says_everything() -> None:
    def said(texts: Mapping[str, Any]) -> set[str]:
        return {*texts, *(f"script.{name}" for name in texts["script"])}

    first, *others = map(said, TEXTS.values())
    for other in others:
        assert other == first
