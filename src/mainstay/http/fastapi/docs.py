"""The documentation pages of a FastAPI application; see :mod:`mainstay.http.docs`."""

from __future__ import annotations

from fastapi import FastAPI

from mainstay.http import docs
from mainstay.http.fastapi.routes import served
from mainstay.http.wire import ASGIApp

__all__ = ["pages"]


def pages(app: FastAPI, folder: str) -> dict[str, ASGIApp]:
    """Return the document and its pages below *folder*."""
    made = docs.pages(folder, app.title, app.openapi, names_root_path=app.root_path_in_servers)
    return {path: served(answering) for path, answering in made.items()}
