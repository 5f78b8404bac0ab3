"""Encoded picture of any kind -> RGB of the wanted size -> encoded bytes. Pure functions on bytes.

```
bytes --header--> Opened --jpeg | Pillow + colour--> RGB --resize, turn, canvas--> pixels --encode--> Stored
                     `----------- nothing has to change: the source's own bytes -----------------^
```
The header decides before any pixel is decoded. Orientation is applied, transparency becomes white, 16-bit is scaled,
profiles are turned into sRGB, an animation gives its first frame. What is cut short is refused.
"""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from configs.ingest import ImagesConfig
from data_pipeline.ingest import jpeg
from data_pipeline.ingest.colour import changes, to_rgb, to_srgb
from data_pipeline.ingest.encode import LONGEST, encode
from data_pipeline.ingest.header import (
    BROKEN,
    Header,
    Opened,
    PictureError,
    detail_of,
    open_picture,
    read_header,
    swapped,
)
from data_pipeline.ingest.resize import Size, fitted, middle_square, on_canvas, scale_to, target, turn
from data_pipeline.sample import ImageInfo

__all__ = ["Header", "PictureError", "Stored", "decode", "pixels_of", "prepare", "read_header"]


@dataclass(frozen=True)
class Stored:
    """A picture as it goes into the dataset. `pixels` [H, W, 3] uint8 are those that were encoded."""

    data: bytes = field(repr=False)
    format: str
    info: ImageInfo
    pixels: np.ndarray = field(repr=False)


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """RGB picture of the encoded bytes, upright, in its full size.

    Raises:
        PictureError: `empty`, `not_a_picture`, `too_many_pixels`, `too_many_scans`, `corrupt`, `memory`.
    """
    opened = open_picture(data, max_pixels)
    pixels, _ = _whole(opened)
    return Image.fromarray(turn(pixels, opened.orientation))


def prepare(data: bytes, config: ImagesConfig, canvas: Size | None = None) -> Stored:
    """The picture as the recipe wants it, or (`canvas`) fitted on a ground of that width and height.

    With `config.passthrough`, a picture that has the format already and needs neither another size nor turning nor
    other colours keeps its bytes, metadata and all, once they are decoded without a complaint.

    Raises:
        PictureError: as `decode`, and `too_long` for the format, `too_many_pixels` when enlarged.
    """
    with _memory_is_a_reason():
        pixels, own = _pixels(data, config, canvas)
        stored = own if own is not None else encode(pixels, config.format, config.quality)
        return Stored(stored, config.format, ImageInfo(pixels.shape[1], pixels.shape[0]), pixels)


def pixels_of(data: bytes, config: ImagesConfig, canvas: Size | None = None) -> np.ndarray:
    """The pixels that `prepare` encodes, [H, W, 3] uint8. Raises as `prepare`."""
    with _memory_is_a_reason():
        return _pixels(data, config, canvas)[0]


@contextmanager
def _memory_is_a_reason() -> Iterator[None]:
    """OpenCV has errors of its own: for its own memory, and for arrays that numpy does not give it."""
    try:
        yield
    except Exception as error:
        of_opencv = type(error).__module__ == "cv2" and re.search("Insufficient memory|can not be created", str(error))
        if not isinstance(error, MemoryError) and not of_opencv:
            raise
        raise PictureError("memory", "resizing or encoding it takes more memory than there is") from None


def _pixels(data: bytes, config: ImagesConfig, canvas: Size | None) -> tuple[np.ndarray, bytes | None]:
    """What to encode, and the source's bytes where they can stay as they are."""
    opened = open_picture(data, config.max_pixels)
    if canvas is None and config.mode == "border":
        canvas = (config.size, config.size)
    if canvas is not None:
        return np.asarray(on_canvas(_for_canvas(opened, canvas), canvas, config.pad)), None
    wanted = target(opened.size, config.mode, config.size, config.enlarge, LONGEST[config.format])
    if wanted[0] * wanted[1] > max(config.max_pixels, opened.size[0] * opened.size[1]):
        raise PictureError("too_many_pixels", f"enlarged to {wanted[0]} x {wanted[1]} pixels, above max_pixels")
    pixels, own = _sized(opened, wanted, config.mode == "center-crop")
    return pixels, data if own and config.passthrough and config.format == opened.format else None


def _sized(opened: Opened, wanted: Size, square: bool) -> tuple[np.ndarray, bool]:
    """Upright pixels of that size, and whether they are the source's own, unchanged."""
    if wanted == opened.size:
        pixels, plain = _whole(opened)
        return turn(pixels, opened.orientation), plain and opened.orientation == 1
    size = swapped(wanted, opened.orientation)
    if opened.format == "jpg":
        table = getattr(opened.picture, "quantization", {}).get(0)
        quick = jpeg.read(opened.data, opened.stored, table, size, square)
        if quick is not None:
            return turn(_in_srgb(opened, quick), opened.orientation), False
    pixels, _ = _whole(opened)
    return turn(scale_to(middle_square(pixels) if square else pixels, size), opened.orientation), False


def _for_canvas(opened: Opened, canvas: Size) -> Image.Image:
    """Upright picture, at least twice as large as it will be on the canvas, or as large as it is."""
    if opened.format == "jpg":
        size = fitted(opened.size, canvas)
        ratio = min(opened.size[0] / size[0], opened.size[1] / size[1])
        # Only where columns and rows come out even: a half one would shift the rest.
        even = math.gcd(*opened.stored, 8)
        eighths = next((part for part in (1, 2, 4) if ratio * part / 8 >= 2 and even >= 8 // part), 8)
        pixels = jpeg.decode(opened.data, opened.stored, eighths)
        if pixels is not None:
            return Image.fromarray(turn(_in_srgb(opened, pixels), opened.orientation))
    pixels, _ = _whole(opened)
    return Image.fromarray(turn(pixels, opened.orientation))


def _whole(opened: Opened) -> tuple[np.ndarray, bool]:
    """All pixels as stored, not turned, in sRGB; and whether they are just what is in the file.

    Pillow judges what the quick decoder does not take: it has the last word on what is a picture.
    """
    if opened.format == "jpg":
        pixels = jpeg.decode(opened.data, opened.stored)
        if pixels is not None:
            mode = opened.picture.mode
            same = opened.picture.format == "JPEG" and not changes(opened.profile, mode)
            return _in_srgb(opened, pixels), same
    picture = opened.picture
    plain = opened.format != "jpg" and _is_plain(picture) and not changes(opened.profile, picture.mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.load()
            return np.asarray(to_rgb(picture, opened.profile)), plain
    except Image.DecompressionBombError as error:
        raise PictureError("too_many_pixels", str(error)) from None
    except MemoryError:
        raise PictureError("memory", "decoding it takes more memory than there is") from None
    except BROKEN as error:
        raise PictureError("corrupt", detail_of(error)) from None


def _in_srgb(opened: Opened, pixels: np.ndarray) -> np.ndarray:
    """RGB pixels of a JPEG through its profile. After resizing: a profile costs far more than the resize."""
    mode = opened.picture.mode
    if not changes(opened.profile, mode):
        return pixels
    picture = Image.fromarray(pixels)
    return np.asarray(to_srgb(picture.getchannel("R") if mode == "L" else picture, opened.profile))


def _is_plain(picture: Image.Image) -> bool:
    """One frame of 8-bit RGB or grey, nothing else: to be known before it is loaded."""
    if getattr(picture, "is_animated", False) or "transparency" in picture.info:
        return False
    if picture.format == "PNG":
        tiles: list[Any] = getattr(picture, "tile", [])
        return len(tiles) == 1 and tiles[0].args in ("RGB", "L")
    return picture.format == "WEBP" and picture.mode == "RGB"
