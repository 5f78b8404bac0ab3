"""Thumbnails of a dataset's pictures as data URIs. No external request ever leaves the page."""

import base64
import io
from functools import lru_cache

from PIL import Image

from data_pipeline.stream.read.dataset import Dataset

SIDE = 96


@lru_cache(maxsize=16)
def open_dataset(folder: str) -> Dataset:
    return Dataset(folder)


@lru_cache(maxsize=1024)
def thumbnail(folder: str, sample: int, number: int = 0, side: int = SIDE) -> str:
    """Picture `number` of a sample as a WebP data URI of at most `side` pixels."""
    data = open_dataset(folder).read(sample).images[number]
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(small)


def blank(colour: tuple[int, ...], side: int = 8) -> str:
    """A picture of one colour as a data URI."""
    red, green, blue = (max(0, min(255, round(value))) for value in (colour or (128, 128, 128)))
    return _uri(Image.new("RGB", (side, side), (red, green, blue)))


def _uri(picture: Image.Image) -> str:
    sink = io.BytesIO()
    picture.save(sink, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()
