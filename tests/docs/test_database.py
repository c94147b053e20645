"""What the page on tables and sessions shows is what happens."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from sqlmodel import Session, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "database.md"
BLOCKS = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's service, as modules; returns that of its API."""
    modules = {name: ModuleType(name) for name in ("shop", "shop.service", "shop.api")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name, block in zip(("shop.service", "shop.api"), BLOCKS, strict=True):
        exec(block, vars(modules[name]))  # noqa: S102 - our own page
    yield modules["shop.api"]
    modules["shop.service"].service.stop()
    SQLModel.metadata.remove(modules["shop.service"].Order.__table__)


async def test_every_session_of_the_service_is_sqlmodels(
    eager_database: str, shop: ModuleType
) -> None:
    SQLModel.metadata.create_all(shop.database.engine)
    transport = httpx.ASGITransport(shop.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        created = await client.post("/orders", params={"title": "a pen"})
        assert created.status_code == 201, created.text
        shown = await client.get(f"/orders/{created.json()}")
        assert shown.json()["title"] == "a pen"
    assert shop.titles() == ["a pen"]
    shop.pack.apply_async((created.json(),))
    with shop.database.session() as session:
        assert session.exec(shop.order(created.json())).one().is_packed
    async with shop.database.asession() as own, shop.database.new_async_session() as by_hand:
        for opened in (own, by_hand, shop.database.new_session()):
            assert isinstance(opened, AsyncSession | Session)
    await shop.database.aclose()
