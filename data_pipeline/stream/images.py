"""Pixels: decode what a shard stores, render its views, cut them into patches. numpy, Pillow, and libjpeg-turbo."""

import io
import logging
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data_pipeline.stream.resolution import Canvas, PictureLayout

Pixels = NDArray[np.uint8]
JPEG, EXIF, HEAD = b"\xff\xd8", b"Exif\0", 4096
"""A JPEG with EXIF near its start may have to be turned."""


def decode(data: bytes | memoryview) -> Pixels:
    """Stored bytes -> [H, W, 3]. Raises ValueError when they are not a picture.

    A plain JPEG goes to libjpeg-turbo directly, for the same pixels in half of Pillow's time; what it complains of, and
    everything else, is Pillow's to judge.
    """
    if bytes(data[:2]) == JPEG and EXIF not in bytes(data[:HEAD]):
        import simplejpeg

        try:
            if simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray"):
                return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
        except ValueError:
            logging.getLogger(__name__).debug("a JPEG with a warning: Pillow decides")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            ImageOps.exif_transpose(picture, in_place=True)  # of other people's tars; ours are upright
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a picture: {error}") from None


def views_of(picture: Pixels, planned: PictureLayout, cell: int) -> list[Pixels]:
    """[H, W, 3] -> its views, each [rows * cell, columns * cell, 3]; parts of a canvas are not copied."""
    canvases: list[Pixels] = []
    for canvas in planned.canvases:
        source = picture if canvas.source < 0 else canvases[canvas.source]
        canvases.append(_render(source, canvas, planned))
    return [
        canvases[view.canvas][view.top : view.top + view.rows * cell, view.left : view.left + view.columns * cell]
        for view in planned.views
    ]


def _render(picture: Pixels, canvas: Canvas, planned: PictureLayout) -> Pixels:
    """The picture at a canvas's size, on black; one of that size is not resampled."""
    if picture.shape[:2] == (canvas.height, canvas.width):
        fitted = picture[max(0, -canvas.top) :, max(0, -canvas.left) :][: canvas.size[1], : canvas.size[0]]
    else:
        from data_pipeline.stream.resample import resize, resize_squared

        if canvas.squared and picture.shape[0] != picture.shape[1]:
            return resize_squared(picture, canvas.width, planned.fill, planned.filter)
        seen = min(canvas.width, canvas.size[0]), min(canvas.height, canvas.size[1])
        window = (max(0, -canvas.left), max(0, -canvas.top), *seen)
        fitted = resize(picture, canvas.width, canvas.height, planned.filter, window)
    if fitted.shape[:2] == canvas.size[::-1]:
        return fitted
    out = np.zeros((canvas.size[1], canvas.size[0], 3), np.uint8)
    top, left = max(0, canvas.top), max(0, canvas.left)
    out[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return out


def to_patches(view: Pixels, patch: int, merge: int, out: Pixels | None = None) -> Pixels:
    """[H, W, 3] -> patches [P, 3 * patch * patch], channel first, into `out` where it is given.

    The merge x merge patches that become one visual token are neighbours, tokens go in reading order.
    """
    rows, columns = view.shape[0] // patch, view.shape[1] // patch
    if out is None:
        out = np.empty((rows * columns, 3 * patch**2), np.uint8)
    from data_pipeline.stream.resample import cut_patches

    cut_patches(view, patch, merge, out)
    return out


@lru_cache(maxsize=1024)
def patch_places(rows: int, columns: int, merge: int) -> NDArray[np.int32]:
    """[P, 2] row and column of each patch of a view of rows x columns visual tokens, in the order of `to_patches`."""
    y, x = np.indices((rows * merge, columns * merge), np.int32)
    places = np.stack([y, x], -1).reshape(rows, merge, columns, merge, 2).transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    places.flags.writeable = False  # cached: shared by all views of this grid
    return places
