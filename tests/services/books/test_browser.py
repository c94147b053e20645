"""The pages as people use them, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.services.books.browser import Visitor
from tests.services.books.platform import API
from tests.services.platform import Platform
from tests.waiting import PATIENCE_SECONDS

Visit = Callable[..., Visitor]

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</textarea></template><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}${7*7}",
    "<a href=javascript:alert(1)>x</a><base href=//evil.example>",
    "\u202egnp.exe\u202c <iframe srcdoc='<script>parent.alert(1)</script>'>",
    "&lt;b&gt;\\u003cscript\\u003e'; drop table tbc.books_files_groups; --",
]


@pytest.fixture
def api(embedded_platform: Platform) -> Iterator[httpx.Client]:
    """The API, without a row."""
    with httpx.Client(base_url=embedded_platform.url + API, timeout=PATIENCE_SECONDS) as client:
        for rows in ("/types/", "/groups/"):
            for row in client.get(rows).json()["items"]:
                assert client.delete(f"{rows}{row['id']}").status_code == 204
        yield client


@pytest.fixture
def visit(browser: Browser, embedded_platform: Platform, api: httpx.Client) -> Iterator[Visit]:
    """Opens a browser of one's own; whatever happens there, nothing may go wrong in it."""
    visitors: list[Visitor] = []

    def make(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, embedded_platform.url, **options))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.leave()
        assert visitor.faults == []
        assert visitor.dialogs == []


def row(page: Page, id: int) -> Any:
    return page.locator(f'tr[data-id="{id}"]')


def test_the_home_page_leads_to_the_others(visit: Visit) -> None:
    visitor = visit()
    page = visitor.open("/")
    page.get_by_role("link", name="Book file groups").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Book file groups")
    page.get_by_role("link", name="Types", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Book file types")
    page.get_by_role("link", name="Books").click()
    expect(page.get_by_text("How it works")).to_be_visible()
    assert visitor.refusals == []


def test_groups_and_types_are_added_edited_and_deleted(visit: Visit, api: httpx.Client) -> None:
    visitor = visit()
    page = visitor.open("/groups")
    expect(page.locator("#empty")).to_be_visible()
    page.get_by_label("ID").fill("7")
    page.get_by_label("Name").fill("Covers")
    page.get_by_label("Comment").fill("front\nand back")
    page.get_by_role("button", name="Add").click()
    expect(row(page, 7)).to_contain_text("Covers")
    expect(page.get_by_role("status")).to_have_text("Added.")
    assert api.get("/groups/7").json() == {"id": 7, "name": "Covers", "comment": "front\nand back"}

    page = visitor.open("/types")
    page.get_by_label("ID").fill("3")
    page.get_by_label("File name").fill("cover.jpg")
    page.get_by_label("Group").select_option("7")
    page.get_by_role("button", name="Add").click()
    expect(row(page, 3)).to_contain_text("7 · Covers")

    row(page, 3).get_by_role("button", name="Edit").click()
    expect(page.get_by_role("heading", name="Edit type 3")).to_be_visible()
    expect(page.get_by_label("ID")).to_be_disabled()
    page.get_by_label("File name").fill("front.jpg")
    page.get_by_role("button", name="Save").click()
    expect(row(page, 3)).to_contain_text("front.jpg")
    expect(page.get_by_role("status")).to_have_text("Saved.")
    expect(page.get_by_role("heading", name="New type")).to_be_visible()

    row(page, 3).get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("front.jpg")
    dialog.get_by_role("button", name="Cancel").click()
    expect(row(page, 3)).to_be_visible()
    row(page, 3).get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(row(page, 3)).to_have_count(0)
    assert api.get("/types/3").status_code == 404
    assert visitor.refusals == []


def test_the_table_is_refreshed(visit: Visit, api: httpx.Client) -> None:
    page = visit().open("/groups")
    api.post("/groups/", json={"id": 1, "name": "Texts"})
    page.get_by_role("button", name="Refresh").click()
    expect(row(page, 1)).to_contain_text("Texts")


def test_a_long_table_comes_in_parts(visit: Visit, api: httpx.Client) -> None:
    for id in range(1, 121):
        api.post("/groups/", json={"id": id})
    page = visit().open("/groups")
    expect(page.locator("#body tr")).to_have_count(100)
    expect(page.locator("#count")).to_have_text("100 of 120")
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#body tr")).to_have_count(120)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_what_does_not_fit_is_told_at_its_field(visit: Visit, api: httpx.Client) -> None:
    api.post("/groups/", json={"id": 7})
    visitor = visit()
    page = visitor.open("/groups")
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#id-error")).to_have_text("Fill this in.")
    expect(page.get_by_label("ID")).to_be_focused()
    page.get_by_label("ID").fill("-1")
    page.get_by_label("Name").fill("x" * 256)
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#id-error")).to_contain_text("A whole number from 1")
    expect(page.locator("#name-error")).to_have_text("At most 255 characters.")
    assert visitor.refusals == []
    page.get_by_label("ID").fill("7")
    page.get_by_label("Name").fill("x")
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#id-error")).to_have_text("This ID is taken: choose another one.")
    assert visitor.refusals == [400]
    page.get_by_label("ID").fill("8")
    expect(page.locator("#id-error")).to_be_hidden()
    page.get_by_role("button", name="Add").click()
    expect(row(page, 8)).to_be_visible()


def test_what_others_did_meanwhile_is_told_where_it_matters(
    visit: Visit, api: httpx.Client
) -> None:
    api.post("/groups/", json={"id": 1, "name": "Texts"})
    api.post("/groups/", json={"id": 2})
    api.post("/types/", json={"id": 1, "group_id": 1})
    page = visit().open("/groups")
    row(page, 1).get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Types are still in this group")
    dialog.get_by_role("button", name="Cancel").click()

    row(page, 1).get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Name")).to_have_value("Texts")
    api.put("/groups/1", json={"name": "Books"})
    page.get_by_label("Name").fill("Words")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#form-error")).to_contain_text("Somebody has changed it meanwhile")
    assert api.get("/groups/1").json()["name"] == "Books"

    api.delete("/groups/2")
    row(page, 2).get_by_role("button", name="Edit").click()
    expect(page.locator("#table-error")).to_contain_text("no longer there")


def test_a_service_that_does_not_answer_is_told(visit: Visit) -> None:
    visitor = visit()
    page = visitor.open("/groups")
    page.context.set_offline(True)
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#table-error")).to_contain_text("does not answer")
    page.context.set_offline(False)
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#table-error")).to_be_hidden()
    visitor.faults = [fault for fault in visitor.faults if "ERR_INTERNET_DISCONNECTED" not in fault]


def test_everything_is_done_with_the_keyboard_alone(visit: Visit, api: httpx.Client) -> None:
    page = visit().open("/groups")
    press = page.keyboard.press
    press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    press("Enter")
    press("Tab")
    expect(page.get_by_label("ID")).to_be_focused()
    page.keyboard.type("5")
    press("Tab")
    page.keyboard.type("Texts")
    press("Enter")
    expect(row(page, 5)).to_contain_text("Texts")
    expect(page.get_by_label("ID")).to_be_focused()

    edit = row(page, 5).get_by_role("button", name="Edit")
    while not edit.evaluate("button => button === document.activeElement"):
        press("Tab")
    press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    press("End")
    page.keyboard.type(" and covers")
    press("Enter")
    expect(row(page, 5)).to_contain_text("Texts and covers")
    expect(edit).to_be_focused()

    press("Tab")
    press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    press("Escape")
    expect(dialog).to_be_hidden()
    expect(row(page, 5).get_by_role("button", name="Delete")).to_be_focused()
    press("Enter")
    press("Tab")
    press("Enter")
    expect(row(page, 5)).to_have_count(0)
    assert api.get("/groups/").json()["total"] == 0


@pytest.mark.parametrize("path", ["/", "/groups", "/types"])
@pytest.mark.parametrize("language", ["en-US", "ru-RU"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    visit: Visit, api: httpx.Client, path: str, language: str
) -> None:
    api.post("/groups/", json={"id": 2**53 - 1, "name": "w" * 255, "comment": "ж" * 2000})
    body = {"id": 2**53 - 1, "group_id": 2**53 - 1, "file_name": "x" * 255, "comments": "y" * 300}
    api.post("/types/", json=body)
    visitor = visit(language=language, width=360)
    page = visitor.open(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if path == "/":
        return
    for name in ("edit", "delete"):
        box = page.locator(f"#body .{name}").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert min(box["width"], box["height"]) >= 24  # WCAG 2.2, 2.5.8
        picture = page.locator(f"#body .{name} use").bounding_box()
        assert picture is not None
        assert min(picture["width"], picture["height"]) >= 10
    page.locator("#body .edit").click()
    expect(page.locator("#cancel")).to_be_visible()
    page.locator("#body .delete").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_pages_speak_russian(visit: Visit, api: httpx.Client) -> None:
    api.post("/groups/", json={"id": 7, "name": "Обложки"})
    page = visit(language="ru-RU").open("/groups")
    expect(page.get_by_role("heading", level=1)).to_have_text("Группы файлов книг")
    page.get_by_role("button", name="Добавить").click()
    expect(page.locator("#id-error")).to_have_text("Заполните это поле.")
    page.get_by_label("ID").fill("7")
    page.get_by_role("button", name="Добавить").click()
    expect(page.locator("#id-error")).to_have_text("Этот ID занят: выберите другой.")
    row(page, 7).get_by_role("button", name="Удалить").click()
    expect(page.get_by_role("dialog")).to_contain_text("Удалить 7?")
    page.get_by_role("dialog").get_by_role("button", name="Удалить").click()
    expect(page.get_by_role("status")).to_have_text("Удалено.")
    said = page.locator("body").inner_text()
    assert not re.search(r"[A-Za-z]{3,}", said), said


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_a_text(visit: Visit, api: httpx.Client, text: str) -> None:
    visitor = visit()
    page = visitor.open("/groups")
    page.get_by_label("ID").fill("1")
    page.get_by_label("Name").fill(text)
    page.get_by_label("Comment").fill(text)
    page.get_by_role("button", name="Add").click()
    cells = row(page, 1).locator("td")
    expect(cells.nth(1)).to_have_text(text)
    expect(cells.nth(2)).to_have_text(text)
    page = visitor.open("/types")
    page.get_by_label("ID").fill("1")
    page.get_by_label("File name").fill(text)
    page.get_by_label("Comments").fill(text)
    page.get_by_label("Group").select_option("1")
    page.get_by_role("button", name="Add").click()
    cells = row(page, 1).locator("td")
    for column, shown in enumerate([text, text, f"1 · {text}"], start=1):
        expect(cells.nth(column)).to_have_text(shown)
    row(page, 1).get_by_role("button", name="Edit").click()
    expect(page.get_by_label("File name")).to_have_value(text)
    row(page, 1).get_by_role("button", name="Delete").click()
    expect(page.locator("#named")).to_have_text(text)
    assert page.locator("iframe, #rows script, #rows img, base").count() == 0
    assert visitor.refusals == []
    assert api.get("/types/1").json()["file_name"] == text
