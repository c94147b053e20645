"""The web application of the books service: its API, its importer and its pages."""

from __future__ import annotations

from flask import Flask

from books import api, importer, pages
from books.service import service
from mainstay.http import flask

# A process that lacks one of these could only fail later.
NEEDS = ("secret_key", "database_url", "celery_broker_url")
# For everything else one shows a token, outside of development.
PUBLIC = ("/", "/groups", "/types", "health", "db-status")


def create_app() -> Flask:
    """Make the application; its settings are read here: ``flask --app books.app run``."""
    made = flask.create_app(service, __name__, title="Books", needs=NEEDS, public=PUBLIC)
    prefix = f"/{service.settings.api_primary_path}"
    made.register_blueprint(api.blueprint, url_prefix=prefix)
    made.register_blueprint(importer.blueprint, url_prefix=f"{prefix}/importer")
    made.register_blueprint(pages.blueprint)
    return made
