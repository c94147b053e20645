"""Clients that are slow, send too much, or send what no client should: others are served."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import select
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.clients import Clients
from tests.chaos.exchanges import request, said, said_at_last
from tests.chaos.processes import Process
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.stage import Stage

_HEAD = b"GET /effects/unit-0-0 HTTP/1.1\r\nHost: api\r\n"
_SMUGGLED = b"GET /effects/smuggled HTTP/1.1\r\nHost: api\r\n\r\n"
_MIB = 1_048_576
# What may happen to a body that is hostile: it is read, it is refused, and that is all.
_ANSWERS = {200, 400, 413, 415, 422}


@scenario(40, "clients that send a byte a second, or half of their headers", on=("redis",))
def clients_are_slow(stage: Stage) -> None:
    api = stage.api(APP_REQUEST_TIMEOUT_SECONDS="4").ready()
    count = stage.pick(short=60, full=1000)
    units = stage.pick(short=60, full=1000)

    async def play() -> None:
        async with Clients(stage, api) as clients:
            await serve(clients)  # what is done once, at the beginning, is not the slow clients'
            stage.figures["p99_ms_alone"] = await serve(clients)
            slow = [asyncio.create_task(half_a_head()) for _ in range(count)]
            slow += [asyncio.create_task(body_by_the_byte()) for _ in range(count)]
            stage.figures["p99_ms_beside"] = await serve(clients)
            ends = await asyncio.gather(*slow)
            heads, bodies = Counter(ends[:count]), Counter(ends[count:])
        assert heads == {408: count}, heads
        assert bodies == {408: count}, bodies

    async def serve(clients: Clients) -> float:
        """Return the 99th percentile of what others wait."""
        waited = []
        for _ in range(units):
            began = time.perf_counter()
            await clients.order(stage.ledger.submit())
            waited.append((time.perf_counter() - began) * 1000)
        return round(statistics.quantiles(waited, n=100)[98], 1)

    async def half_a_head() -> int:
        return await drip(_HEAD + b"X-Half: ")

    async def body_by_the_byte() -> int:
        return await drip(request("/effects", b'{"unit": "unit-0-0"}' + b" " * 60)[:-60])

    async def drip(data: bytes) -> int:
        """Say *data* and then a byte a second; returns the status that ends it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        stage.fault("slow client")
        writer.write(data)
        # Not to the end of the connection: a byte that comes after it is answered with a reset.
        answer = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        try:
            while not (await asyncio.wait({answer}, timeout=1.0))[0]:
                writer.write(b" ")
            return _status(answer.result())
        finally:
            writer.transport.abort()

    asyncio.run(play())


@scenario(
    41, "bodies that are too long, announced and unannounced", on=("redis",), keeps_books=False
)
def bodies_are_too_long(stage: Stage) -> None:
    api = stage.api().ready()
    assert _status(said(api.port, _closing("/echo", b'["' + b"x" * 1000 + b'"]'))) == 200
    before = _most_memory(api)
    # Announced: refused before a byte of it has come.
    for length in (10 * _MIB, 1024 * _MIB, 10**15):
        head = b"POST /echo HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
        assert _status(said(api.port, head + b"Content-Length: %d\r\n\r\n" % length)) == 413
    # Unannounced: refused when there is too much of it.
    for length in (10 * _MIB, stage.pick(short=100, full=1024) * _MIB):
        status, taken = _pour(api.port, length)
        assert status == 413
        assert taken < 20 * _MIB, f"{taken} bytes were taken"
    bomb = gzip.compress(b"[" + b"0," * 50 * _MIB + b"0]")
    status = _status(said(api.port, _closing("/echo", bomb, b"Content-Encoding: gzip")))
    assert status in (400, 413, 415), status
    grown = (_most_memory(api) - before) / 1024
    stage.figures |= {"bomb_bytes": len(bomb), "grown_mib": round(grown, 1)}
    assert grown < 20, f"{grown:.0f} MiB"
    assert api.status("/ready") == 200


@scenario(42, "bodies that are hardly JSON", on=("redis",), keeps_books=False)
def bodies_are_hardly_json(stage: Stage) -> None:
    api = stage.api().ready()
    asked: Counter[int] = Counter()
    for body, status in _hostile_json():
        answer = said(api.port, _closing("/echo", body))
        assert _responses(answer) == [status], (body[:80], answer, status)
        asked[status] += 1

    async def play() -> None:
        async with Clients(stage, api) as clients:
            for _ in range(stage.pick(short=300, full=20_000)):
                body, _ = stage.random.choice(_SHORT_JSON)
                answer = await clients.send("/echo", _mutated(body, stage.random))
                assert answer is not None, clients.silences
                assert answer.status in _ANSWERS, (body, answer)
            asked.update(clients.statuses)

    asyncio.run(play())
    assert not [status for status in asked if status >= 500], asked
    stage.figures |= {f"answers_{status}": count for status, count in asked.items()}


@scenario(
    43, "headers that would break a line, an answer or the memory", on=("redis",), keeps_books=False
)
def headers_are_hostile(stage: Stage) -> None:
    api = stage.api().ready()
    hostile = [
        b"a\rb", b"a\nb", b"a\x00b", b"a\x1b[31mb", b"a\tb", b'a"b\\', "é".encode(), "🔑".encode(),
        b"x" * 129, b"x" * 5000, b"", b" ", b"\xff", b"{{7*7}}", b"<script>",
        b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
        b"ff-" + b"1" * 32 + b"-" + b"1" * 16 + b"-01",
        b"%0d%0aX-Injected: yes", b"a\r\nX-Injected: yes", b"a\r\n X-Folded: yes",
        b"a\r\n\r\n" + _SMUGGLED,
    ]  # fmt: skip
    asked = 0
    for name in (b"X-Request-ID", b"X-Correlation-ID", b"traceparent", b"tracestate"):
        for value in hostile:
            line = name + b": " + value + b"\r\n"
            answer = said_at_last(api.port, _HEAD + b"Connection: close\r\n" + line + b"\r\n")
            head = answer.partition(b"\r\n\r\n")[0].lower()
            assert len(_responses(answer)) == 1, (name, value, answer)
            assert b"injected" not in head, (name, value, answer)
            assert re.search(rb"\r\nx-correlation-id: [a-z0-9._-]{1,128}(\r\n|$)", head), answer
            assert _status(answer) in (200, 400), (name, value, answer)
            asked += 1
    too_large = [
        b"X-Long: " + b"x" * 100_000 + b"\r\n",
        b"".join(b"X-%d: x\r\n" % number for number in range(500)),
        b"X" * 100_000 + b": x\r\n",
        b"Cookie: " + b"a=b; " * 20_000 + b"\r\n",
    ]
    for lines in too_large:
        assert _status(said(api.port, _HEAD + lines + b"\r\n")) == 431, lines[:20]
    stage.figures["requests"] = asked + len(too_large)
    assert api.status("/ready") == 200
    for logged in api.log.read_text().splitlines():
        assert isinstance(json.loads(logged), dict), logged


@scenario(44, "requests that can be read in two ways", on=("redis",), keeps_books=False)
def requests_can_be_read_in_two_ways(stage: Stage) -> None:
    api = stage.api().ready()
    for name, data in _AMBIGUOUS.items():
        answer = said(api.port, data)
        assert _responses(answer) == [400], f"{name}: {answer!r}"
        assert b"connection: close" in answer.lower(), f"{name}: {answer!r}"
    for name, data in _UNAMBIGUOUS.items():
        answer = said_at_last(api.port, data)
        assert _responses(answer) == [200], f"{name}: {answer!r}"
    stage.figures |= {"refused": len(_AMBIGUOUS), "accepted": len(_UNAMBIGUOUS)}
    assert b"smuggled" not in api.log.read_bytes()
    assert api.status("/ready") == 200


_POST = b"POST /echo HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
_GET = b"GET /healthz HTTP/1.1\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n"
_CLOSE = b"Connection: close\r\n"

# Each is followed by another request, which must not be heard.
_AMBIGUOUS = {
    name: data + _SMUGGLED
    for name, data in {
        "length and chunks": _CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        "chunks after a length": (
            _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        "two lengths": _POST + b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n[]",
        "one length twice": _POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n[]",
        "a list of lengths": _POST + b"Content-Length: 2, 60\r\n\r\n[]",
        "a length with a sign": _POST + b"Content-Length: +2\r\n\r\n[]",
        "a length below nothing": _POST + b"Content-Length: -2\r\n\r\n[]",
        "a hexadecimal length": _POST + b"Content-Length: 0x2\r\n\r\n[]",
        "a length in two words": _POST + b"Content-Length: 2 0\r\n\r\n[]",
        "an empty length": _POST + b"Content-Length: \r\n\r\n[]",
        "an endless length": _POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n[]",
        "an unknown coding": _POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "no coding": _POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "chunks are not the last": _POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "two codings": _CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "a blank before the colon": _POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "a vertical tab": _POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "a chunk of no size": _CHUNKED + b"\r\nzz\r\n[]\r\n0\r\n\r\n",
        "a chunk below nothing": _CHUNKED + b"\r\n-2\r\n[]\r\n0\r\n\r\n",
        "an endless chunk": _CHUNKED + b"\r\nfffffffffffffffff\r\n[]\r\n0\r\n\r\n",
        "chunks with bare line feeds": _CHUNKED + b"\r\n2\n[]\n0\n\n",
        "a chunk without an end": _CHUNKED + b"\r\n2\r\n[]0\r\n\r\n",
        "a line feed in an extension": _CHUNKED + b"\r\n2;a=\n\r\n[]\r\n0\r\n\r\n",
        "two hosts": _GET + b"Host: api\r\nHost: other\r\n\r\n",
        "no host": _GET + b"\r\n",
        "bare line feeds": b"GET /healthz HTTP/1.1\nHost: api\n\n",
        "a bare line feed": _GET + b"Host: api\nX: y\r\n\r\n",
        "a bare carriage return": _GET + b"Host: api\rX: y\r\n\r\n",
        "a folded line": _GET + b"Host: api\r\nX: y\r\n z\r\n\r\n",
        "a first line that is folded": _GET + b" Host: api\r\n\r\n",
        "a name with a blank": _GET + b"Host: api\r\nX Y: z\r\n\r\n",
        "a name of nothing": _GET + b"Host: api\r\n: z\r\n\r\n",
        "a line without a colon": _GET + b"Host: api\r\nX\r\n\r\n",
        "a NUL in a value": _GET + b"Host: api\r\nX: y\x00z\r\n\r\n",
        "a NUL in a name": _GET + b"Host: api\r\nX\x00: z\r\n\r\n",
        "a target with a blank": b"GET /health z HTTP/1.1\r\nHost: api\r\n\r\n",
        "a target of nothing but a host": b"GET api:80 HTTP/1.1\r\nHost: api\r\n\r\n",
        "a tunnel": b"CONNECT api:80 HTTP/1.1\r\nHost: api\r\n\r\n",
        "a method in small letters": b"get /healthz HTTP/1.1\r\nHost: api\r\n\r\n",
        "a method of its own": b"SMUGGLE /healthz HTTP/1.1\r\nHost: api\r\n\r\n",
        "HTTP/1.2": b"GET /healthz HTTP/1.2\r\nHost: api\r\n\r\n",
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }.items()
}  # fmt: skip

_UNAMBIGUOUS = {
    # RFC 9112, 3.2.2: a server must accept it, though only proxies are asked this way.
    "a target with its host": b"GET http://api/healthz HTTP/1.1\r\nHost: api\r\n"
    + _CLOSE
    + b"\r\n",
    "a target with a port and a query": (
        b"GET http://api:80/effects/unit-0-0?a=b HTTP/1.1\r\nHost: api\r\n" + _CLOSE + b"\r\n"
    ),
    "empty lines first": b"\r\n\r\n" + _GET + b"Host: api\r\n" + _CLOSE + b"\r\n",
    "an extension and a trailer": (
        _CHUNKED + _CLOSE + b"\r\n2;a=b\r\n[]\r\n0\r\nX-Trailer: 1\r\n\r\n"
    ),
    "a tab before a value": _POST + b"Content-Length:\t2\r\n" + _CLOSE + b"\r\n[]",
    "HTTP/1.0 without a host": b"GET /healthz HTTP/1.0\r\n\r\n",
}


def _hostile_json() -> Iterator[tuple[bytes, int]]:
    """Bodies, and what each is answered."""
    yield from _SHORT_JSON
    yield b"[" * 100_000 + b"]" * 100_000, 400
    yield b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400
    yield b"{" + b",".join(b'"%d":0' % key for key in range(1_000_000)) + b"}", 413
    yield b"{" + b",".join(b'"%d":0' % key for key in range(90_000)) + b"}", 200
    yield b"[" + b"9" * 100_000 + b"]", 400
    yield b"[1." + b"9" * 100_000 + b"]", 200
    yield b'["' + b"x" * 1_000_000 + b'"]', 200
    yield b'{"' + b"x" * 1_000_000 + b'":1}', 200
    yield b'{"' + b"x" * 400_000 + b'":1,"' + b"x" * 400_000 + b'":2}', 400
    yield b'["' + b"\\u0000" * 100_000 + b'"]', 422


_SHORT_JSON: list[tuple[bytes, int]] = [
    (b"[" * 64 + b"]" * 64, 200),
    (b"[" * 65 + b"]" * 65, 400),
    (b'{"a":1,"b":[true,false,null,-0,1e-400,"\xc3\xa9\xf0\x9f\x94\x91",{"":{}}]}', 200),
    (b'{"__proto__":{"constructor":1},"$ref":"#","__class__":[]}', 200),
    (b"[123456789012345678901234567890]", 200),
    (b'{"a":1,"a":2}', 400),
    (b'{"a":1,"\\u0061":2}', 400),
    (b"[1e400]", 400),
    (b"[NaN]", 400),
    (b"[Infinity,-Infinity]", 400),
    (b'["\\ud800"]', 400),
    (b'["\\udc00\\ud800"]', 400),
    (b'["\\ud83d\\udd11"]', 200),
    (b'["a\\u0000b"]', 422),
    (b'{"a\\u0000b":1}', 422),
    (b'["\x00"]', 400),
    (b'["\n"]', 400),
    (b'["\xff"]', 400),
    (b'["\xc0\x80"]', 400),
    (b'["\xed\xa0\x80"]', 400),
    (b"\xef\xbb\xbf[]", 400),
    ("[]".encode("utf-16"), 400),
    ("[]".encode("utf-32"), 400),
    (b"", 422),
    (b" ", 400),
    (b"[] []", 400),
    (b"[],", 400),
    (b"[1,]", 400),
    (b"[,1]", 400),
    (b"{'a':1}", 400),
    (b"{a:1}", 400),
    (b"[01]", 400),
    (b"[+1]", 400),
    (b"[.5]", 400),
    (b"[1.]", 400),
    (b"[0x1]", 400),
    (b"[-]", 400),
    (b'["\\x41"]', 400),
    (b'["a', 400),
    (b"[1 2]", 400),
    (b"/* a */[]", 400),
    (b"[]// a", 400),
    (b"True", 400),
    (b"null", 422),
    (b"1", 422),
    (b'"[]"', 422),
]


def _mutated(body: bytes, chance: random.Random) -> bytes:
    """Return *body* with a few of its bytes changed, doubled or gone."""
    changed = bytearray(body)
    for _ in range(chance.randint(1, 2)):
        at = chance.randrange(len(changed) + 1)
        piece = chance.choice((b"", bytes([chance.randrange(256)]), *_PIECES, bytes(changed[:at])))
        changed[at : at + chance.randrange(3)] = piece
    return bytes(changed)


_PIECES = (b'"', b"\\", b"[", b"{", b":", b",", b"\\u0000", b"\\ud800", b"1e999", b'"a":', b"\x00")


def _closing(path: str, body: bytes, *lines: bytes) -> bytes:
    head = b"".join(line + b"\r\n" for line in (*lines, b"Content-Type: application/json"))
    length = b"Content-Length: %d\r\n" % len(body)
    return (
        b"POST "
        + path.encode()
        + b" HTTP/1.1\r\nHost: api\r\n"
        + head
        + length
        + _CLOSE
        + b"\r\n"
        + body
    )


def _pour(port: int, length: int) -> tuple[int, int]:
    """Send *length* bytes in chunks, for as long as the server takes them without a word.

    Returns:
        The status that it answered, and how much it had been sent by then.
    """
    piece = b"10000\r\n" + b"0" * 0x10000 + b"\r\n"
    taken = 0
    with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
        client.sendall(_CHUNKED + b"\r\n")
        while taken < length and not select.select([client], [], [], 0)[0]:
            try:
                client.sendall(piece)
            except ConnectionError:
                break  # what it had said before can still be read
            taken += 0x10000
        return _status(client.recv(65_536)), taken


def _status(answer: bytes) -> int:
    return (_responses(answer) or [0])[0]


def _responses(answer: bytes) -> list[int]:
    """Return the statuses of all that was answered."""
    return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", answer, re.MULTILINE)]


def _most_memory(process: Process) -> int:
    """Return the most memory that a process has ever had, in KiB."""
    told = Path(f"/proc/{process.pid}/status").read_text()
    return int(told.partition("VmHWM:")[2].split()[0])
