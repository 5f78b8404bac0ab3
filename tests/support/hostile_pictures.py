"""Pictures and bodies that a hostile server sends: sound ones, and bombs."""

import functools
import io
import random
import struct
import zlib

from PIL import Image

UNPACKED = 200 * 2**20
"""Bytes that the gzip bomb unpacks to; it travels as 0.2 MB."""


@functools.cache
def picture(seed: int = 0) -> bytes:
    """A sound JPEG of 320 x 240, 10 to 20 KB."""
    noise = Image.frombytes("RGB", (40, 30), random.Random(seed).randbytes(3600))
    sink = io.BytesIO()
    noise.resize((320, 240), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=90)
    return sink.getvalue()


@functools.cache
def png_bomb(side: int = 30_000) -> bytes:
    """A sound PNG of about 0.1 MB, `side` squared: 0.9 gigapixels, 2.7 GB as RGB."""
    rows = b"\0" * (1 + side // 8) * 100
    packer = zlib.compressobj(9)
    data = b"".join([*(packer.compress(rows) for _ in range(side // 100)), packer.flush()])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@functools.cache
def gzip_bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(2**20)
    return b"".join([*(packer.compress(zeros) for _ in range(UNPACKED // 2**20)), packer.flush()])


def packed(data: bytes, wbits: int) -> bytes:
    """31: gzip, 15: zlib, -15: bare deflate."""
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(data) + packer.flush()
