"""How large may a message become when it is decompressed?

Kombu decompresses a message before anybody can look at it, without end: less than a megabyte of
zeros becomes a gigabyte. So its decoders are replaced by ones that stop at a limit.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from kombu import compression

from mainstay.errors import TooLarge

__all__ = ["bound"]

# An archive says itself how much memory it takes to read; the strongest preset asks for 65 MiB.
_LZMA_BYTES = 128 * 2**20
_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def bound(limit: int) -> None:
    """Have kombu decompress no more than *limit* bytes of a message, in this process; called again
    it takes the new limit. Compressions that an application has registered itself are left alone.
    """
    for content_type, begin in _DECODERS.items():
        if content_type in compression.encoders():
            encoder, _ = compression.get_encoder(content_type)
            compression.register(encoder, partial(_decompressed, begin, limit), content_type)


def _decompressed(
    begin: Callable[[bytes, int], tuple[bytes, bool]], limit: int, body: Any
) -> bytes:
    found, is_whole = begin(body, limit + 1)
    if len(found) > limit:
        raise TooLarge(f"decompressed it has more than {limit} bytes")
    if not is_whole:
        raise EOFError("it ends before its compressed data does")
    return found


# Each returns so many bytes at the most, and whether that was all.


def _gzip(body: bytes, most: int) -> tuple[bytes, bool]:
    decoder = zlib.decompressobj()
    return decoder.decompress(body, most), decoder.eof


def _bz2(body: bytes, most: int) -> tuple[bytes, bool]:
    decoder = import_module("bz2").BZ2Decompressor()
    return decoder.decompress(body, most), decoder.eof


def _lzma(body: bytes, most: int) -> tuple[bytes, bool]:
    decoder = import_module("lzma").LZMADecompressor(memlimit=_LZMA_BYTES)
    return decoder.decompress(body, most), decoder.eof


def _zstd(body: bytes, most: int) -> tuple[bytes, bool]:
    decoder = import_module(_ZSTD).ZstdDecompressor()
    return decoder.decompress(body, most), decoder.eof


def _brotli(body: bytes, most: int) -> tuple[bytes, bool]:
    decoder = import_module("brotli").Decompressor()
    # The limit is a hint: a decoder may give a little more. Brotli has it since 1.2.
    return decoder.process(body, output_buffer_limit=most), decoder.is_finished()


_DECODERS: dict[str, Callable[[bytes, int], tuple[bytes, bool]]] = {
    "application/x-gzip": _gzip,
    "application/x-bz2": _bz2,
    "application/x-lzma": _lzma,
    "application/zstd": _zstd,
    "application/x-brotli": _brotli,
}
