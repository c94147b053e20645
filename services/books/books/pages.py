"""The pages: tables and forms of groups and types, whose script talks to the JSON API."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response, make_response, render_template, request

from books.schemas import INTEGER_LIMIT
from books.service import service
from books.texts import DEFAULT, TEXTS

# Bootstrap's pictures are data: URLs in its style sheet; no script and no style is in a page.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

blueprint = Blueprint("pages", __name__)


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a table, and one field of its form.

    Args:
        kind: ``number``, ``text``, ``long`` or ``group``.
        most: The largest number, or the most characters.
    """

    name: str
    kind: str
    most: int
    is_required: bool = False


_ID = Field("id", "number", INTEGER_LIMIT - 1, is_required=True)
_GROUP = (_ID, Field("name", "text", 255), Field("comment", "long", 2000))
_TYPE = (
    _ID,
    Field("file_name", "text", 255),
    Field("comments", "long", 2000),
    Field("group_id", "group", INTEGER_LIMIT - 1, is_required=True),
)


@blueprint.get("/")
def home() -> Response:
    return _page("home.html", "home")


@blueprint.get("/groups")
def groups() -> Response:
    return _page("rows.html", "groups", one="group", fields=_GROUP)


@blueprint.get("/types")
def types() -> Response:
    return _page("rows.html", "types", one="type", fields=_TYPE)


def _page(template: str, page: str, **shown: object) -> Response:
    language = request.accept_languages.best_match(TEXTS, default=DEFAULT)
    text = TEXTS[language or DEFAULT]
    api = f"{request.script_root}/{service.settings.api_primary_path}"
    response = make_response(
        render_template(template, page=page, language=language, text=text, api=api, **shown)
    )
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Content-Language"] = language
    response.headers["Cache-Control"] = "private, no-cache"
    response.vary.add("Accept-Language")
    return response
