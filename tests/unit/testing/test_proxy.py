"""Faults on the wire, seen from a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mainstay.testing import FaultProxy, async_eventually


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy before a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_bytes_pass_both_ways_and_the_end_passes_too(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"hello"
    writer.close()


async def test_a_stalled_wire_says_nothing_until_it_is_healed(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    proxy.stall()
    writer.write(b"hello")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(5), 0.05)
    proxy.heal()
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def test_latency_holds_bytes_back_and_keeps_their_order(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    proxy.latency_seconds = 0.01
    for part in (b"a", b"b", b"c"):
        writer.write(part)
        await writer.drain()
    assert await reader.readexactly(3) == b"abc"
    writer.close()


async def test_a_reset_ends_open_connections_and_admits_new_ones(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    await reader.readexactly(5)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()
    reader, writer = await connect(proxy)
    writer.write(b"again")
    assert await reader.readexactly(5) == b"again"
    writer.close()


async def test_a_refusing_proxy_resets_new_connections(proxy: FaultProxy) -> None:
    proxy.refuse()
    reader, writer = await connect(proxy)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


async def test_connections_that_ended_are_forgotten(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"x")
    await reader.readexactly(1)
    assert proxy.connections == 1
    writer.close()
    await async_eventually(lambda: proxy.connections == 0)


async def test_a_server_that_is_away_looks_like_a_lost_connection() -> None:
    async with FaultProxy("127.0.0.1", 1) as proxy:
        reader, writer = await connect(proxy)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def test_a_reset_ends_a_connection_that_is_just_being_made(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, may_open = asyncio.Event(), asyncio.Event()
    opened = asyncio.open_connection

    async def slowly(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        opening.set()
        await may_open.wait()
        return await opened(host, port)

    monkeypatch.setattr(asyncio, "open_connection", slowly)
    reader, writer = await opened("127.0.0.1", proxy.port)
    await opening.wait()
    proxy.reset()
    may_open.set()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
