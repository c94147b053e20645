"""Which route was it? Its template, which is one label for all the paths it matches.

Read after the call, from what the router left in the scope: nothing walks a table of routes, and
nothing private of a framework is asked. A router that is included in another one leaves its own
part alone (FastAPI ≥ 0.137); the part before it is then taken from the path.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

__all__ = ["UNMATCHED", "template_of"]

UNMATCHED = "unmatched"


def template_of(scope: MutableMapping[str, Any]) -> str:
    """Return the template of the route that *scope* was led to, or ``unmatched``."""
    route = scope.get("route")
    if route is None:
        return _of_endpoint(scope)
    template: str = getattr(route, "path_format", "") or getattr(route, "path", "")
    # A mounted application that found nothing inside has no endpoint: its own path is the label.
    if not template or not hasattr(route, "endpoint"):
        return template or UNMATCHED
    path: str = scope["path"]
    missing = path.count("/") - template.count("/")
    if missing == 0:
        return template
    params: Mapping[str, object] = scope.get("path_params") or {}
    outer: dict[str, str] = {}
    for name, value in params.items():
        if f"{{{name}}}" in template:
            missing -= str(value).count("/")  # of a parameter that takes a whole path
        else:
            outer[str(value)] = name
    if missing <= 0:
        return template
    before = path.split("/")[1 : missing + 1]
    return _templated(before, outer) + template


def _of_endpoint(scope: MutableMapping[str, Any]) -> str:
    """Some routers leave nothing but the endpoint; its path is its template filled in."""
    params: Mapping[str, object] = scope.get("path_params") or {}
    if "app_root_path" in scope:
        # Something is mounted there: where, and never what was asked of it.
        place: str = scope["root_path"][len(scope["app_root_path"]) :]
        return UNMATCHED if params else place or UNMATCHED
    if scope.get("endpoint") is None:
        return UNMATCHED
    path: str = scope["path"]
    return _templated(path.split("/")[1:], {str(v): k for k, v in params.items()}) or UNMATCHED


def _templated(segments: list[str], values: dict[str, str]) -> str:
    """Write *segments* with their parameters; nothing where one of them cannot be found, because
    a label must not hold what a client chose.
    """
    if values and not values.keys() <= set(segments):
        return ""
    return "".join(f"/{{{values[one]}}}" if one in values else f"/{one}" for one in segments)
