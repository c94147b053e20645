"""Which route was it? Its template, which is one label for all the paths it matches.

An application may be served below a path: a proxy's, or that of another application which it is
mounted in. No route, and no setting of an application, knows of that.

Read after the call, from what the router left in the scope: nothing walks a table of routes, and
nothing private of a framework is asked. A router that is included in another one leaves its own
part alone (FastAPI ≥ 0.137); the part before it is then taken from the path.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

__all__ = ["UNMATCHED", "path_below", "template_of"]

UNMATCHED = "unmatched"


def path_below(root_path: str, path: str) -> str:
    """Return *path* as the routes of an application have it that is served below *root_path*.

    A server that knows of *root_path* puts it before every path (ASGI 3.0); where a proxy has
    taken it off and only the application knows of it, it is not there.
    """
    if not root_path:
        return path
    below = path.removeprefix(root_path)
    return below if below[:1] in ("", "/") else path


def template_of(scope: MutableMapping[str, Any], root_path: str = "") -> str:
    """Return the template of the route that *scope* was led to, or ``unmatched``.

    Args:
        root_path: Below which the application is served, as *scope* had it before.
    """
    route = scope.get("route")
    if route is None:
        return _of_endpoint(scope, root_path)
    template: str = getattr(route, "path_format", "") or getattr(route, "path", "")
    # A mounted application that found nothing inside has no endpoint: its own path is the label.
    if not template or not hasattr(route, "endpoint"):
        return template or UNMATCHED
    path = path_below(root_path, scope["path"])
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


def _of_endpoint(scope: MutableMapping[str, Any], root_path: str) -> str:
    """Some routers leave nothing but the endpoint; its path is its template filled in."""
    params: Mapping[str, object] = scope.get("path_params") or {}
    found_below: str = scope.get("root_path", "")
    if found_below != root_path:
        # Something is mounted there: where, and never what was asked of it.
        place = found_below[len(root_path) :]
        return UNMATCHED if params else place or UNMATCHED
    if scope.get("endpoint") is None:
        return UNMATCHED
    path = path_below(root_path, scope["path"])
    return _templated(path.split("/")[1:], {str(v): k for k, v in params.items()}) or UNMATCHED


def _templated(segments: list[str], values: dict[str, str]) -> str:
    """Write *segments* with their parameters; nothing where one of them cannot be found, because
    a label must not hold what a client chose.
    """
    if values and not values.keys() <= set(segments):
        return ""
    return "".join(f"/{{{values[one]}}}" if one in values else f"/{one}" for one in segments)
