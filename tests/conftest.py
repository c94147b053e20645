"""What every test may ask for, and which tests share a worker when several run them."""

from __future__ import annotations

import pytest

pytest_plugins = ["mainstay.testing.plugin"]


@pytest.hookimpl(tryfirst=True)  # before xdist looks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep together what shares what is slow to start: a file, or a whole platform."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    fixtures = getattr(item, "fixturenames", ())
    params = item.callspec.params if hasattr(item, "callspec") else {}
    for kind in ("embedded", "real"):
        if params.get("platform") == kind or f"{kind}_platform" in fixtures:
            return f"{kind} platform"
    return item.nodeid.partition("::")[0]
