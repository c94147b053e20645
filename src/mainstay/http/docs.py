"""The documentation pages: Swagger UI and Redoc, from files that the service serves itself."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

import orjson

from mainstay.http.own import Answering, Asked, Reply

__all__ = ["pages"]

# Swagger UI and Redoc write styles into elements, and Redoc searches in a worker made of a blob.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css", ".png": "image/png"}
_FILES = {
    "swagger-ui-bundle.js": "swagger-ui-bundle.js.gz",
    "swagger-ui.css": "swagger-ui.css.gz",
    "redoc.standalone.js": "redoc.standalone.js.gz",
    "docs.js": "docs.js",
    "redoc.js": "redoc.js",
    "favicon.png": "favicon.png",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{folder}/favicon.png">
{head}
</head>
<body>
<div id="{place}" data-document="{document}"></div>
</body>
</html>
"""
_SWAGGER = """<link rel="stylesheet" href="{folder}/swagger-ui.css">
<script src="{folder}/swagger-ui-bundle.js"></script>
<script src="{folder}/docs.js"></script>"""
_REDOC = """<script src="{folder}/redoc.standalone.js"></script>
<script src="{folder}/redoc.js"></script>"""


def pages(
    folder: str,
    title: str,
    document: Callable[[], Mapping[str, Any]],
    *,
    names_root_path: bool = True,
) -> dict[str, Answering]:
    """Return what answers ``openapi.json``, ``docs`` and ``redoc`` below *folder*, and the files
    that these need below ``docs/files``.

    Links are relative, so that the pages also work behind a proxy that adds a prefix.

    Args:
        document: Makes the OpenAPI document when it is asked for, with every route known by then.
        names_root_path: Whether it says below which path its own are.
    """
    json = {"content-type": "application/json"}
    made: dict[str, Answering] = {
        f"{folder}/openapi.json": lambda asked: Reply(
            200, json, orjson.dumps(_placed(document(), asked.root_path if names_root_path else ""))
        ),
        f"{folder}/docs": lambda _: _page(title, "swagger-ui", _SWAGGER),
        f"{folder}/redoc": lambda _: _page(title, "redoc", _REDOC),
    }
    return made | {f"{folder}/docs/files/{name}": _file(name) for name in _FILES}


def _placed(document: Mapping[str, Any], root_path: str) -> Mapping[str, Any]:
    """Say in *document* below which path its own are."""
    servers = document.get("servers", [])
    if not root_path or any(one.get("url") == root_path for one in servers):
        return document
    return {**document, "servers": [{"url": root_path}, *servers]}


def _page(title: str, place: str, head: str) -> Reply:
    folder = "docs/files"
    page = _PAGE.format(
        title=escape(title),
        folder=folder,
        head=head.format(folder=folder),
        place=place,
        document="openapi.json",
    )
    headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": _POLICY}
    return Reply(200, headers, page.encode())


def _file(name: str) -> Answering:
    stored = _FILES[name]
    headers = {
        "cache-control": "public, max-age=3600",
        "content-type": _TYPES[name[name.rindex(".") :]],
        "vary": "accept-encoding",
    }
    packed = {**headers, "content-encoding": "gzip"}

    def file(asked: Asked) -> Reply:
        if stored.endswith(".gz") and "gzip" in asked.encodings:
            return Reply(200, packed, _read(stored))
        return Reply(200, headers, _read_plain(stored))

    return file


@cache
def _read(name: str) -> bytes:
    return files("mainstay.http").joinpath("static", name).read_bytes()


@cache
def _read_plain(name: str) -> bytes:
    content = _read(name)
    return gzip.decompress(content) if name.endswith(".gz") else content
