"""RGB pixels -> the size that the recipe asks for: how large, and by which filter.

Sizes are (width, height). Shrinking is area averaging (what each new pixel covers), on canvases bicubic. All of it is
fixed-point or exact arithmetic: the same bytes on every machine (checked with OpenCV's AVX2, AVX-512, SSE4 and IPP
code off).
"""

import functools
from types import ModuleType

import numpy as np
from PIL import Image

Size = tuple[int, int]


@functools.cache
def opencv() -> ModuleType:
    """OpenCV, on the one core that a worker has. Imported late: it takes 0.1 s."""
    import cv2

    cv2.setNumThreads(1)
    cv2.ocl.setUseOpenCL(False)
    return cv2


def target(size: Size, mode: str, wanted: int, enlarge: bool, longest: int) -> Size:
    """What a picture of `size` becomes. Unless `enlarge`, a smaller one keeps its size.

    `keep-ratio`: the shortest side becomes `wanted`; `keep-ratio-largest`: the longest; `center-crop`: the largest
    square in the middle becomes `wanted` x `wanted`. No side gets longer than `longest`, which the format can hold.
    """
    if mode == "none":
        return size
    if mode == "center-crop":
        side = wanted if enlarge else min(wanted, *size)
        return side, side
    scale = wanted / (max(size) if mode == "keep-ratio-largest" else min(size))
    scale = min(scale if enlarge else min(1.0, scale), longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def scale_to(pixels: np.ndarray, size: Size) -> np.ndarray:
    """[H, W, 3] resized to `size`: area averaging where it gets smaller, bicubic where larger."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    if size[0] <= width and size[1] <= height:
        cv2 = opencv()
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def middle_square(pixels: np.ndarray) -> np.ndarray:
    """The largest square in the middle of [H, W, 3], contiguous."""
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels upright, as the EXIF orientation (1 ... 8) says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def fitted(size: Size, canvas: Size) -> Size:
    """Largest size of the same shape that `canvas` holds."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def on_canvas(picture: Image.Image, canvas: Size, pad: str = "white") -> Image.Image:
    """Resized to fit into `canvas` (width, height), centred, the rest white or (`edge`) as the picture's edge is."""
    size = fitted(picture.size, canvas)
    inside = picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)
    if size == canvas:
        return inside
    out = Image.new("RGB", canvas, "white" if pad == "white" else _edge_colour(inside))
    out.paste(inside, ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
    return out


def _edge_colour(picture: Image.Image) -> tuple[int, ...]:
    """Median of the outermost pixels, by channel: what touches the edge somewhere does not colour the rest."""
    pixels = np.asarray(picture)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.median(edge, axis=0))
