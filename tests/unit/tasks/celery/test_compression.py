from __future__ import annotations

import pytest
from kombu import compression

from mainstay.errors import TooLarge
from mainstay.tasks.celery.compression import bound

LIMIT = 10_000


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ("_encoders", "_decoders"):
        monkeypatch.setattr(compression, names, dict(getattr(compression, names)))
    bound(LIMIT)


@pytest.mark.parametrize("name", compression.encoders())
def test_what_is_honestly_compressed_is_read(name: str) -> None:
    for text in (b"", b"text", bytes(LIMIT)):
        assert compression.decompress(compression.compress(text, name)[0], name) == text


@pytest.mark.parametrize("name", compression.encoders())
def test_nothing_is_decompressed_beyond_the_limit(name: str) -> None:
    for size in (LIMIT + 1, 100 * LIMIT):
        with pytest.raises(TooLarge, match="more than 10000 bytes"):
            compression.decompress(compression.compress(bytes(size), name)[0], name)


@pytest.mark.parametrize("name", compression.encoders())
def test_what_breaks_off_is_not_taken_for_the_whole(name: str) -> None:
    compressed, _ = compression.compress(bytes(range(256)), name)
    with pytest.raises(EOFError, match="ends before"):
        compression.decompress(compressed[:-1], name)


def test_a_compression_of_ones_own_is_left_alone() -> None:
    compression.register(bytes, bytes, "application/x-own")
    bound(LIMIT)
    assert compression.get_decoder("application/x-own") is bytes
