"""Outside development the API asks who one is, and so do the pages."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.services.books.browser import Visitor
from tests.services.books.platform import API
from tests.services.platform import Platform
from tests.waiting import PATIENCE_SECONDS


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{API}/groups/", 401),
        (f"{API}/types/1", 401),
        (f"{API}/importer/status/1", 401),
        (f"{API}/health", 200),
        (f"{API}/db-status", 200),
        ("/", 200),
        ("/groups", 200),
        ("/static/rows.js", 200),
    ],
)
def test_what_shows_rows_needs_a_token(real_platform: Platform, path: str, status: int) -> None:
    answer = httpx.get(real_platform.url + path, timeout=PATIENCE_SECONDS)
    assert answer.status_code == status


def test_a_page_asks_for_a_token_and_keeps_it(real_platform: Platform, browser: Browser) -> None:
    visitor = Visitor(browser, real_platform.url)
    page = visitor.open("/groups")
    expect(page.get_by_label("Access token")).to_be_visible()
    page.get_by_label("Access token").fill(real_platform.token)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_label("Access token")).to_be_hidden()
    visitor.loaded()
    expect(page.locator("#table-error")).to_be_hidden()
    page.get_by_label("ID").fill("777")
    page.get_by_role("button", name="Add").click()
    expect(page.locator('tr[data-id="777"]')).to_be_visible()
    visitor.open("/types")
    expect(page.locator("#empty, #table").first).to_be_attached()
    expect(page.get_by_label("Access token")).to_be_hidden()
    visitor.leave()
    assert visitor.faults == []
    assert set(visitor.refusals) == {401}
