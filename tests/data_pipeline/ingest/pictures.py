"""Pictures that Pillow does not write: PNGs of any depth, ICC profiles, photograph-like noise, bombs."""

import functools
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tests.data_pipeline.conftest import encoded

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
"""Red, green and blue as XYZ under D50."""


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(pixels: np.ndarray, kind: int, interlaced: bool = False, before: bytes = b"", after: bytes = b"") -> bytes:
    """uint8 or uint16 [H, W, channels] as PNG colour type `kind`, with chunks before and after the pixels."""
    height, width = pixels.shape[:2]
    depth = 8 * pixels.dtype.itemsize

    def lines(part: np.ndarray) -> bytes:
        return b"".join(b"\0" + line.astype(part.dtype.newbyteorder(">")).tobytes() for line in part if line.size)

    parts = [pixels[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [pixels]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced)))
    body = chunk(b"IDAT", zlib.compress(b"".join(lines(part) for part in parts)))
    return b"\x89PNG\r\n\x1a\n" + head + before + body + after + chunk(b"IEND", b"")


def bomb(width: int, height: int, extra: bytes = b"") -> bytes:
    """A PNG header of a huge picture with next to nothing behind it."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + extra + end


def icc(gamma: float, colours: Sequence[Sequence[float]] = ()) -> bytes:
    """A display profile of one gamma and three colours (XYZ under D50), or a grey one."""

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = [(b"wtpt", xyz((0.9642, 1.0, 0.8249)))]
    if colours:
        tags += [(name + b"XYZ", xyz(value)) for name, value in zip((b"r", b"g", b"b"), colours, strict=True)]
        tags += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    else:
        tags += [(b"kTRC", curve)]
    return _profile(b"mntr", b"RGB " if colours else b"GRAY", b"XYZ ", tags)


def icc_black_only() -> bytes:
    """A printer's profile for which cyan, magenta and yellow are invisible, and black darkens L* in proportion."""
    straight = bytes(range(256))
    grid = b"".join(bytes([0 if corner % 2 else 255, 128, 128]) for corner in range(16))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0])
    lut += b"".join(struct.pack(">i", 65536 * (row == column)) for row in range(3) for column in range(3))
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", round(0.9642 * 65536), 65536, round(0.8249 * 65536))
    return _profile(b"prtr", b"CMYK", b"Lab ", [(b"wtpt", white), (b"A2B0", lut + straight * 4 + grid + straight * 3)])


def _profile(kind: bytes, space: bytes, between: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags:
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, kind, space, between)
    light = b"".join(struct.pack(">i", round(value * 65536)) for value in (0.9642, 1.0, 0.8249))
    return (head + bytes(12) + b"acsp" + bytes(28) + light).ljust(128, b"\0") + table + body


@functools.cache
def photo(seed: int, width: int, height: int, roughness: float = 1.2) -> Image.Image:
    """Noise with the spectrum of photographs, 1 / frequency ** roughness, in correlated colours."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    shape = 1 / np.maximum(np.hypot(x, y), 1 / max(width, height)) ** roughness
    layers = [
        np.fft.irfft2(np.fft.rfft2(random.normal(size=(height, width))) * shape, s=(height, width)) for _ in "lab"
    ]
    light, a, b = (layer / layer.std() for layer in layers)
    colours = np.stack([light + 0.3 * a, light - 0.1 * a + 0.1 * b, light - 0.3 * b], -1)
    return Image.fromarray(np.clip(np.rint(128 + 45 * colours), 0, 255).astype(np.uint8))


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG of few bytes whose last scan comes again and again."""
    data = encoded(Image.new("L", (width, height), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In dB; 99 where they are equal."""
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))
