"""RGB pixels -> JPEG, PNG or WebP bytes; the same pixels give the same bytes."""

import io

import numpy as np
from PIL import Image

from data_pipeline.ingest.header import PictureError
from data_pipeline.ingest.resize import opencv

LONGEST = {"jpg": 65500, "png": 2**31 - 1, "webp": 16383}
"""Longest side that each format holds."""


def encode(pixels: np.ndarray, kind: str, quality: int) -> bytes:
    """[H, W, 3] uint8 as `jpg`, `png` or `webp`.

    Raises:
        PictureError: `too_long` for the format.
    """
    if max(pixels.shape[:2]) > LONGEST[kind]:
        raise PictureError("too_long", f"a side of {max(pixels.shape[:2])} pixels: {kind} holds {LONGEST[kind]}")
    if kind == "jpg":
        # The bytes that Pillow would write (a test holds both to it), for three quarters of the time.
        cv2 = opencv()
        _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        return data.tobytes()
    sink = io.BytesIO()
    if kind == "png":
        Image.fromarray(pixels).save(sink, "PNG", compress_level=3)
    else:
        Image.fromarray(pixels).save(sink, "WEBP", quality=quality, method=2)
    return sink.getvalue()
