"""Encoded bytes -> what their header says: format, size, orientation, colour profile. No pixel is decoded.

Nothing that is too large gets past here, and nothing but pictures: EPS and its like run programs.
"""

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass, field

from PIL import AvifImagePlugin, Image, PngImagePlugin

READABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is opened at all: formats that parse pictures and nothing else."""

BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's plugins raise on broken pixels and tags."""

EXIF_TAGS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
ORIENTATION = 0x0112
NAMES = {"JPEG": "jpg", "MPO": "jpg"}
MOST_SCANS = 500
"""Progressive JPEGs in the wild have about ten; each further scan visits every block again."""

# A PNG may hold texts and profiles that inflate a thousandfold, and they are read with the header: Pillow takes 64 MiB.
PngImagePlugin.MAX_TEXT_MEMORY = 8 * 2**20
# A worker has one core; each further thread of the AV1 decoder takes frame buffers of its own.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class PictureError(ValueError):
    """A picture that cannot be used. `reason` is a short stable name, `str(error)` the detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """Format (`jpg`, `png`, ...) and size in pixels as a viewer shows it, after EXIF orientation."""

    format: str
    width: int
    height: int


@dataclass(frozen=True)
class Opened:
    """A picture whose header is read. `stored` is (width, height) as in the file, before `orientation` (1 ... 8)."""

    data: bytes = field(repr=False)
    picture: Image.Image
    format: str
    stored: tuple[int, int]
    orientation: int
    profile: bytes | None = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), upright."""
        return swapped(self.stored, self.orientation)


def swapped(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Upright (width, height) of a stored one, and the other way round."""
    return size[::-1] if orientation >= 5 else size


def detail_of(error: BaseException) -> str:
    """An error as a line that is the same in every process: addresses of objects would differ."""
    return re.sub(r"<\S+ object at 0x[0-9a-fA-F]+>", "its bytes", f"{type(error).__name__}: {error}")[:200]


def read_header(data: bytes, max_pixels: int) -> Header:
    """Format and upright size.

    Raises:
        PictureError: `empty`, `not_a_picture`, `too_many_pixels`, `too_many_scans`.
    """
    opened = open_picture(data, max_pixels)
    return Header(opened.format, *opened.size)


def open_picture(data: bytes, max_pixels: int) -> Opened:
    """The picture behind the bytes, to be decoded when its pixels are asked for. Raises as `read_header` does."""
    if not data:
        raise PictureError("empty", "no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.init()
            # Pillow trips over a format that this build of it does not have.
            picture = Image.open(io.BytesIO(data), formats=[name for name in READABLE if name in Image.OPEN])
            width, height = picture.size
            if width * height > max_pixels:
                raise PictureError("too_many_pixels", f"{width} x {height} pixels is above max_pixels {max_pixels}")
            orientation = _orientation(picture, data)
    except Image.DecompressionBombError as error:
        raise PictureError("too_many_pixels", str(error)) from None
    except PictureError:
        raise
    except MemoryError:
        raise PictureError("too_many_pixels", "its header asks for more memory than there is") from None
    except BROKEN as error:  # UnidentifiedImageError is an OSError
        raise PictureError("not_a_picture", detail_of(error)) from None
    kind = picture.format or ""
    name = NAMES.get(kind, kind.lower())
    if picture.info.get("progressive") and (scans := data.count(b"\xff\xda")) > MOST_SCANS:
        raise PictureError("too_many_scans", f"{scans} scans is more than the {MOST_SCANS} that are read")
    return Opened(data, picture, name, picture.size, orientation, picture.info.get("icc_profile") or None)


def _orientation(picture: Image.Image, data: bytes) -> int:
    """How the stored picture is to be turned (1 ... 8, 1 is upright). A broken tag counts as none, as in viewers."""
    if picture.format == "TIFF":  # turned by Pillow as it is loaded, and its size with it
        return 1
    if picture.format == "PNG" and "exif" not in picture.info and b"eXIf" in data:
        late = _png_chunk(data, b"eXIf")
        if late:
            picture.info["exif"] = b"Exif\0\0" + late
    if not EXIF_TAGS & picture.info.keys():
        return 1
    try:
        # Not PngImageFile's, which decodes the whole picture first, to see the chunks behind it.
        value = Image.Image.getexif(picture).get(ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_chunk(data: bytes, name: bytes) -> bytes:
    """Body of the first chunk of that name, wherever it stands; empty if there is none."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        if kind == name:
            return data[position + 8 : position + 8 + length]
        if kind == b"IEND":
            break
        position += 12 + length
    return b""
