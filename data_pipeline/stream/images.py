"""Pixels: decode what a shard stores, fit it to its grid, cut it into patches. numpy and Pillow only."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def decode(data: bytes) -> NDArray[np.uint8]:
    """Stored bytes -> [H, W, 3]. Raises ValueError when they are not a picture."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a picture: {error}") from None


def fit(picture: NDArray[np.uint8], rows: int, columns: int, cell: int) -> NDArray[np.uint8]:
    """[H, W, 3] -> [rows * cell, columns * cell, 3]; a picture of that size is not resampled."""
    height, width = rows * cell, columns * cell
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def to_patches(picture: NDArray[np.uint8], patch: int, merge: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """[H, W, 3] -> patches [P, 3 * patch * patch] (channel first) and their [P, 2] row and column.

    The merge x merge patches that become one visual token are neighbours, tokens go in reading order.
    """
    rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
    outer = (rows // merge, merge, patch, columns // merge, merge, patch, 3)
    cut = picture.reshape(outer).transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, -1)
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    places = np.stack([y, x], -1).reshape(rows // merge, merge, columns // merge, merge, 2).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(cut), np.ascontiguousarray(places.reshape(-1, 2).astype(np.int32))
