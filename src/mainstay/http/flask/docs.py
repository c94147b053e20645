"""The documentation pages of a Flask application; see :mod:`mainstay.http.docs`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flask import Flask

from mainstay.http import docs
from mainstay.http.flask.openapi import document
from mainstay.http.flask.routes import served

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["pages"]


def pages(app: Flask, folder: str, *, title: str, version: str) -> dict[str, WSGIApplication]:
    """Return the document and its pages below *folder*."""
    made = docs.pages(folder, title, partial(document, app, title=title, version=version))
    return {path: served(answering) for path, answering in made.items()}
