"""The documentation pages: Swagger UI and Redoc, from files that the service serves itself."""

from __future__ import annotations

import gzip
from functools import cache
from html import escape
from importlib.resources import files

import orjson
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import Response

from mainstay.http.fastapi.routes import readable
from mainstay.http.wire import ASGIApp, Receive, Scope, Send

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


def pages(app: FastAPI, folder: str) -> dict[str, ASGIApp]:
    """Return ``openapi.json``, ``docs`` and ``redoc`` below *folder*, and the files that these
    need below ``docs/files``.

    Links are relative, so that the pages also work behind a proxy that adds a prefix.
    """

    async def swagger() -> Response:
        return _page(app.title, "swagger-ui", _SWAGGER)

    async def redoc() -> Response:
        return _page(app.title, "redoc", _REDOC)

    async def document() -> Response:
        return Response(orjson.dumps(app.openapi()), media_type="application/json")

    made = {
        f"{folder}/openapi.json": readable(document),
        f"{folder}/docs": readable(swagger),
        f"{folder}/redoc": readable(redoc),
    }
    return made | {f"{folder}/docs/files/{name}": _file(name) for name in _FILES}


def _page(title: str, place: str, head: str) -> Response:
    folder = "docs/files"
    page = _PAGE.format(
        title=escape(title),
        folder=folder,
        head=head.format(folder=folder),
        place=place,
        document="openapi.json",
    )
    return Response(page, headers={"content-security-policy": _POLICY}, media_type="text/html")


def _file(name: str) -> ASGIApp:
    stored = _FILES[name]
    headers = {
        "cache-control": "public, max-age=3600",
        "content-type": _TYPES[name[name.rindex(".") :]],
        "vary": "accept-encoding",
    }

    async def packed() -> Response:
        return Response(_read(stored), headers={**headers, "content-encoding": "gzip"})

    async def plain() -> Response:
        return Response(_read_plain(stored), headers=headers)

    as_packed, as_plain = readable(packed), readable(plain)

    async def file(scope: Scope, receive: Receive, send: Send) -> None:
        takes = Headers(scope=scope).get("accept-encoding", "")
        is_packed = stored.endswith(".gz") and "gzip" in takes
        await (as_packed if is_packed else as_plain)(scope, receive, send)

    return file


@cache
def _read(name: str) -> bytes:
    return files("mainstay.http.fastapi").joinpath("static", name).read_bytes()


@cache
def _read_plain(name: str) -> bytes:
    content = _read(name)
    return gzip.decompress(content) if name.endswith(".gz") else content
