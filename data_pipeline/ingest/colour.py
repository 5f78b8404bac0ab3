"""A decoded picture of any mode -> sRGB, 8 bit: transparency on white, 16 bit scaled, ICC profiles applied.

A profile that is broken, or of another kind of colour than the pixels, is passed over, as in a browser.
"""

import hashlib
import io
from collections import OrderedDict

import numpy as np
from PIL import Image, ImageCms

from data_pipeline.ingest.header import BROKEN

ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
STRIP = 2**22
"""Pixels that are laid on white at a time."""
SAME = 1
"""A profile whose colours differ from sRGB by no more than this (of 255) is sRGB under another name."""


def to_rgb(picture: Image.Image, profile: bytes | None = None) -> Image.Image:
    """A loaded picture as RGB of the same size."""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bit(picture)
    if picture.mode in ALPHA or "transparency" in picture.info:
        grey = picture.mode in ("LA", "La")
        picture = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        if profile:
            alpha = picture.getchannel("A")
            base = picture.getchannel("R") if grey else picture.convert("RGB")
            picture = to_srgb(base, profile).convert("RGBA")
            picture.putalpha(alpha)
        return _on_white(picture)
    if picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB", "CMYK"):
        picture = picture.convert("RGB")
    return to_srgb(picture, profile)


def _on_white(picture: Image.Image) -> Image.Image:
    """RGBA as RGB, strip by strip: three more pictures of that size would not fit beside a large one."""
    width, height = picture.size
    out = Image.new("RGB", picture.size)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        part = picture.crop((0, top, width, min(top + rows, height)))
        ground = Image.new("RGBA", part.size, "white")
        out.paste(Image.alpha_composite(ground, part).convert("RGB"), (0, top))
    return out


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 bit, 32 bit or floats -> L."""
    values = np.asarray(picture)
    scale = np.rint(np.arange(65536) / 257).astype(np.uint8)
    if picture.mode.startswith("I;16"):
        # Only I;16 says how many bits it has: a dark one is dark, not 8-bit.
        return Image.fromarray(scale[values.astype(np.uint16, copy=False)])
    if picture.mode == "F":  # in place: four bytes a pixel are much already
        values = np.nan_to_num(values.copy(), copy=False)
        if values.max(initial=0.0) > 255:
            values /= 257
        np.rint(np.clip(values, 0, 255, out=values), out=values)
        return Image.fromarray(values.astype(np.uint8))
    levels = np.clip(values, 0, 65535).astype(np.uint16)
    return Image.fromarray(scale[levels] if levels.max(initial=0) > 255 else levels.astype(np.uint8))


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """An L, RGB or CMYK picture as RGB, through its profile if that says something else than sRGB."""
    transform = _transforms.get(profile, picture.mode) if profile else None
    if transform is None:
        return picture.convert("RGB")
    return ImageCms.applyTransform(picture, transform) or picture


def changes(profile: bytes | None, mode: str) -> bool:
    """Whether the profile gives pixels of that mode (L, RGB, CMYK) other colours than sRGB."""
    return profile is not None and _transforms.get(profile, mode) is not None


class _Transforms:
    """Conversions to sRGB by profile, those used last: most pictures come with one of a few profiles."""

    def __init__(self, most: int):
        self.most = most
        self.known: OrderedDict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = OrderedDict()

    def get(self, profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
        key = (hashlib.sha256(profile).digest(), mode)
        if key not in self.known:
            self.known[key] = _transform(profile, mode)
            if len(self.known) > self.most:
                self.known.popitem(last=False)
        self.known.move_to_end(key)
        return self.known[key]


_transforms = _Transforms(64)


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if mode not in ("L", "RGB", "CMYK"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Relative to the paper's white, as browsers do it: white stays white.
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode == "CMYK":
            return transform
        probe = _probe(mode)
        shown = ImageCms.applyTransform(probe, transform) or probe
    except (ImageCms.PyCMSError, *BROKEN):
        return None
    change = np.abs(np.asarray(shown).astype(np.int16) - np.asarray(probe.convert("RGB")))
    return transform if change.max() > SAME else None


def _probe(mode: str) -> Image.Image:
    """All greys, or colours over the whole cube."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3))
