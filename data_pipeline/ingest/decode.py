"""Encoded picture of any kind -> RGB of the wanted size -> encoded bytes. Pure functions on bytes.

The header decides before any pixel is decoded. Orientation is applied, transparency becomes white, 16-bit grey is
scaled, an animation gives its first frame.
"""

import io
import re
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps

from data_pipeline.sample import ImageInfo

PIL_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
READABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is opened at all: formats that parse pictures and nothing else (no EPS, which runs a program)."""


BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What Pillow's plugins raise on broken pixels and tags."""


class PictureError(ValueError):
    """A picture that cannot be used. `reason` is a short stable name, `str(error)` the detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def _detail(error: Exception) -> str:
    """An error as a line that is the same in every process: addresses of objects would differ."""
    return re.sub(r"<\S+ object at 0x[0-9a-fA-F]+>", "its bytes", f"{type(error).__name__}: {error}")[:200]


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """RGB picture of the encoded bytes.

    Raises:
        PictureError: `empty`, `not_a_picture`, `too_many_pixels`, `corrupt`.
    """
    if not data:
        raise PictureError("empty", "no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.init()
            # Pillow trips over a format that this build of it does not have.
            picture = Image.open(io.BytesIO(data), formats=[name for name in READABLE if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise PictureError("too_many_pixels", str(error)) from None
    except BROKEN as error:  # UnidentifiedImageError is an OSError
        raise PictureError("not_a_picture", _detail(error)) from None
    width, height = picture.size
    if width * height > max_pixels:
        raise PictureError("too_many_pixels", f"{width} x {height} pixels is above max_pixels {max_pixels}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.load()
            return to_rgb(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError as error:
        raise PictureError("too_many_pixels", str(error)) from None
    except BROKEN as error:
        raise PictureError("corrupt", _detail(error)) from None


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency on white, 16-bit and float grey scaled to 8 bit."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture).astype(np.float64))
        # Only I;16 says how many bits it has: a dark one is dark, not 8-bit.
        values = values / 257.0 if picture.mode.startswith("I;16") or values.max(initial=0.0) > 255 else values
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


def resize(picture: Image.Image, mode: str, size: int, pad: str = "white") -> Image.Image:
    """`keep-ratio`: the longest side becomes `size`, never enlarged; `border`: size x size, padded; `none`."""
    if mode == "none":
        return picture
    if mode == "border":
        return on_canvas(picture, (size, size), pad)
    longest = max(picture.size)
    if longest <= size:
        return picture
    scale = size / longest
    return picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )


def on_canvas(picture: Image.Image, canvas: tuple[int, int], pad: str = "white") -> Image.Image:
    """Resized to fit into `canvas` (width, height), centred, the rest white or (`edge`) as the picture's edge is."""
    scale = min(canvas[0] / picture.width, canvas[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    fitted = picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)
    if size == canvas:
        return fitted
    out = Image.new("RGB", canvas, "white" if pad == "white" else _edge_colour(fitted))
    out.paste(fitted, ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
    return out


def _edge_colour(picture: Image.Image) -> tuple[int, ...]:
    """Median of the outermost pixels, by channel: what touches the edge somewhere does not colour the rest."""
    pixels = np.asarray(picture)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.median(edge, axis=0))


def encode(picture: Image.Image, kind: str, quality: int) -> tuple[bytes, ImageInfo]:
    """Bytes of the picture as `jpg`, `png` or `webp`; the same picture gives the same bytes."""
    sink = io.BytesIO()
    options = {"png": {"compress_level": 3}, "jpg": {"quality": quality}, "webp": {"quality": quality, "method": 2}}
    picture.save(sink, PIL_FORMATS[kind], **options[kind])
    return sink.getvalue(), ImageInfo(picture.width, picture.height)
