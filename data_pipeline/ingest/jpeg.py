"""JPEG bytes -> RGB pixels in full size, or in a smaller one for the least time.

What costs is not what one would guess (libjpeg-turbo 3, 600 x 800 -> 256, CPU-ms): Huffman decoding 1.0, all the rest
of decoding 0.6, decoding to half size 0.3 less, to 7/8 1.0 *more* (only 1, 1/2, 1/4 and 1/8 have SIMD code), area
averaging with OpenCV 1.5. So pictures are decoded to 2 ... 4 times the wanted size, then sampled linearly at twice
the wanted size and averaged two by two, which is area averaging to 40 dB (0.5 ms). Where there is little to see between
neighbouring pixels, half of that size, sampled linearly once, does as well (0.2 ms).
"""

import math
from dataclasses import dataclass

import numpy as np

from data_pipeline.ingest.resize import Size, opencv, scale_to

DETAIL_LIMITS = ((1.35, math.inf), (1.65, 11.0), (1.8, 8.5), (2.0, 5.5))
"""Up to which ratio, and up to which `detail`, a picture decoded in full may be sampled linearly."""
ROUGH_LIMITS = ((1.1, 500.0), (1.35, 850.0), (1.65, 1200.0), (2.0, 1000.0))
"""The same for one decoded to a half, a quarter or an eighth, and `roughness`."""
WORTH_TRYING = ((1.35, 7.5), (2.0, 9.0))
"""A picture of more detail is too rough most of the time."""
LINES = 32
"""Roughness looks at about as many rows and their neighbours."""


@dataclass(frozen=True)
class Plan:
    """Decode to `eighths`/8 of the size, then sample linearly: at the wanted size, or (`twice`) at twice of it.

    Pixels rougher than `limit` have to be decoded at twice the size, and sampled twice.
    """

    eighths: int
    twice: bool
    limit: float = math.inf


def detail(data: bytes, size: Size, table: list[int] | None) -> float:
    """What the header says of roughness: bits per pixel x root of the mean quantisation step.

    What a step hides takes no bits. This predicts the PSNR of linear sampling with a standard deviation of 1.4 dB
    (bits alone: 2.3 dB, roughness: 0.8 dB).
    """
    if not table:
        return math.inf
    return 8 * len(data) / (size[0] * size[1]) * math.sqrt(sum(table) / len(table))


def roughness(pixels: np.ndarray) -> float:
    """Mean square of the second differences of green along rows, plus along columns, from a few rows."""
    step = max(8, pixels.shape[0] // LINES)
    above, here, below = (pixels[start:][step // 2 :: step, :, 1].astype(np.float32) for start in (0, 1, 2))
    count = len(below)
    along = here[:, 2:] - 2 * here[:, 1:-1] + here[:, :-2]
    across = above[:count] - 2 * here[:count] + below
    return sum(float(np.vdot(bends, bends)) / max(1, bends.size) for bends in (along, across))


def plan(size: Size, wanted: Size, fine: float) -> Plan:
    """How to get from `size` to `wanted` in a picture of detail `fine`.

    The limits are a little below those where the worst of 4,000 cases (500 crops of 40 photographs and textures, 15
    sizes, qualities 30 to 98) falls under 37 dB against full decoding and area averaging.
    """
    ratio = min(size[0] / wanted[0], size[1] / wanted[1])
    eighths = 8
    while eighths > 1 and ratio * eighths / 8 >= 4:
        eighths //= 2
    rest = ratio * eighths / 8
    if rest >= 2 and eighths > 1 and fine < _limit(WORTH_TRYING, rest / 2):
        return Plan(eighths // 2, False, _limit(ROUGH_LIMITS, rest / 2))
    if eighths == 8:
        return Plan(8, fine >= _limit(DETAIL_LIMITS, rest))
    return Plan(eighths, True)


def _limit(limits: tuple[tuple[float, float], ...], rest: float) -> float:
    return next((limit for below, limit in limits if rest < below), 0.0)


def read(data: bytes, size: Size, table: list[int] | None, wanted: Size, square: bool) -> np.ndarray | None:
    """A JPEG of `size`, or (`square`) the largest square in its middle, resized to `wanted`; None as `decode`."""
    inside = (min(size), min(size)) if square else size
    how = plan(inside, wanted, detail(data, size, table))
    quick_colour = min(inside[0] / wanted[0], inside[1] / wanted[1]) >= 2
    pixels = decode(data, size, how.eighths, quick_colour)
    if pixels is not None and how.limit < math.inf and roughness(pixels) > how.limit:
        how = Plan(2 * how.eighths, True)
        pixels = decode(data, size, how.eighths, quick_colour)
    if pixels is None:
        return None
    step = 8 // how.eighths
    left, top = ((size[0] - inside[0]) // 2 // step, (size[1] - inside[1]) // 2 // step)
    extent = (inside[0] / step, inside[1] / step)
    # A last column of less than half a column is left out: OpenCV rounds sizes, and has no other way to say the scale.
    pixels = pixels[top : top + int(extent[1] + 0.5), left : left + int(extent[0] + 0.5)]
    return _shrink(pixels, extent, wanted, how.twice)


def decode(data: bytes, size: Size, eighths: int = 8, quick_colour: bool = False) -> np.ndarray | None:
    """[H, W, 3] uint8 of a JPEG of `size`, scaled by `eighths`/8 (8, 4, 2 or 1), rounded up, and not turned.

    None where this decoder is not the one to judge: CMYK, another size than the header gave, data with a warning.
    `quick_colour` repeats colour samples instead of interpolating them: for what gets smaller by two and more.
    """
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != size or colours not in ("YCbCr", "Gray", "RGB"):
            return None
        least = {"min_height": -(-height * eighths // 8), "min_width": -(-width * eighths // 8)}
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", fastupsample=quick_colour, **least)
    except ValueError:
        return None
    return pixels


def _shrink(pixels: np.ndarray, extent: tuple[float, float], wanted: Size, twice: bool) -> np.ndarray:
    """The second half of a plan. `extent` (width, height) is how much of the pixels is picture.

    The last column of a scaled picture may be half a column: taking it for a whole one shifts the picture by up to a
    quarter of a pixel, which costs 4 dB and more.
    """
    double = (2 * wanted[0], 2 * wanted[1])
    if extent == wanted:
        return np.ascontiguousarray(pixels)
    if extent == double or min(extent[0] / wanted[0], extent[1] / wanted[1]) < 1 or extent[0] > 2 * double[0]:
        return scale_to(pixels, wanted)
    cv2 = opencv()
    if twice:
        pixels = _sample(pixels, extent, double)
        return np.asarray(cv2.resize(pixels, wanted, interpolation=cv2.INTER_AREA))
    return _sample(pixels, extent, wanted)


def _sample(pixels: np.ndarray, extent: tuple[float, float], wanted: Size) -> np.ndarray:
    cv2 = opencv()
    scale = {"fx": wanted[0] / extent[0], "fy": wanted[1] / extent[1]}
    got = tuple(round(side * factor) for side, factor in zip(pixels.shape[1::-1], scale.values(), strict=True))
    if got == wanted:
        return np.asarray(cv2.resize(pixels, None, interpolation=cv2.INTER_LINEAR, **scale))
    return np.asarray(cv2.resize(pixels, wanted, interpolation=cv2.INTER_LINEAR))
