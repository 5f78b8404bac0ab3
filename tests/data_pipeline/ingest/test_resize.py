"""How large a picture becomes in each mode, and on a canvas."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.ingest import ImagesConfig
from data_pipeline.ingest.decode import pixels_of, prepare
from data_pipeline.ingest.encode import encode
from data_pipeline.ingest.resize import on_canvas, scale_to, target
from tests.data_pipeline.conftest import encoded, noise
from tests.data_pipeline.ingest.pictures import photo


@pytest.mark.parametrize(
    ("mode", "size", "wanted", "enlarge", "becomes"),
    [
        ("keep-ratio", (1024, 683), 256, False, (384, 256)),
        ("keep-ratio", (683, 1024), 256, False, (256, 384)),
        ("keep-ratio", (300, 200), 256, False, (300, 200)),
        ("keep-ratio", (300, 200), 256, True, (384, 256)),
        ("keep-ratio", (1000, 1), 50, False, (1000, 1)),
        ("keep-ratio-largest", (1024, 683), 256, False, (256, 171)),
        ("keep-ratio-largest", (1000, 1), 50, False, (50, 1)),
        ("keep-ratio-largest", (100, 50), 256, True, (256, 128)),
        ("center-crop", (1024, 683), 256, False, (256, 256)),
        ("center-crop", (1000, 100), 256, False, (100, 100)),
        ("center-crop", (1000, 100), 256, True, (256, 256)),
        ("border", (1000, 100), 256, False, (256, 256)),
        ("border", (10, 10), 256, False, (256, 256)),
        ("none", (1000, 100), 256, True, (1000, 100)),
    ],
)
def test_sizes(mode: Any, size: tuple[int, int], wanted: int, enlarge: bool, becomes: tuple[int, int]) -> None:
    if mode != "border":
        assert target(size, mode, wanted, enlarge, 65500) == becomes
    for kind in ("JPEG", "PNG"):
        data = encoded(photo(0, *size), kind)
        config = ImagesConfig(mode=mode, size=wanted, enlarge=enlarge, quality=80)
        stored = prepare(data, config)
        assert stored.pixels.shape == (becomes[1], becomes[0], 3)
        assert (stored.info.width, stored.info.height) == becomes == Image.open(io.BytesIO(stored.data)).size


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (3, 4000), (1, 1)])
@pytest.mark.parametrize("mode", ["keep-ratio", "keep-ratio-largest", "center-crop", "border", "none"])
@pytest.mark.parametrize("enlarge", [False, True])
def test_strips_and_dots(size: tuple[int, int], mode: Any, enlarge: bool) -> None:
    for kind in ("JPEG", "PNG"):
        for form in ("jpg", "png", "webp"):
            config = ImagesConfig(mode=mode, size=16, enlarge=enlarge, format=form)
            pixels = prepare(encoded(Image.new("RGB", size, (200, 100, 50)), kind), config).pixels
            assert min(pixels.shape) >= 1
            middle = pixels[(pixels.shape[0] - 1) // 2, (pixels.shape[1] - 1) // 2].astype(int)
            assert np.abs(middle - (200, 100, 50)).max() <= 3


def test_the_crop_is_the_middle() -> None:
    picture = Image.new("RGB", (400, 100), "red")
    picture.paste((0, 255, 0), (150, 0, 250, 100))
    for kind in ("PNG", "JPEG"):
        for size in (20, 50, 100):
            data = encoded(picture, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
            cropped = pixels_of(data, ImagesConfig(mode="center-crop", size=size)).astype(int)
            assert cropped.shape == (size, size, 3)
            assert np.abs(cropped[:, 1:-1] - (0, 255, 0)).max() <= 8, "the crop is not the middle"


def test_shrinking_is_the_mean_of_what_is_covered() -> None:
    pixels = np.asarray(noise(0, 30, 20))
    means = pixels.reshape(4, 5, 5, 6, 3).mean((1, 3))
    assert np.abs(scale_to(pixels, (5, 4)) - means).max() <= 0.51
    weights = np.zeros((8, 20))  # 20 rows to 8: each covers two and a half
    for row in range(8):
        for source in range(20):
            weights[row, source] = max(0.0, min((row + 1) * 2.5, source + 1) - max(row * 2.5, source)) / 2.5
    assert np.abs(scale_to(pixels, (30, 8)) - np.einsum("rs,swc->rwc", weights, pixels)).max() <= 0.51


def test_a_canvas() -> None:
    canvas = np.asarray(on_canvas(Image.new("RGB", (10, 20)), (40, 40)))
    assert canvas.shape == (40, 40, 3)
    assert (canvas[:, 10:30] == 0).all() and (canvas[:, :10] == 255).all() and (canvas[:, 30:] == 255).all()
    stored = prepare(encoded(Image.new("RGB", (10, 20))), ImagesConfig(format="png", size=7), (40, 40))
    assert np.array_equal(stored.pixels, canvas)


def test_padding_with_the_edge_goes_on_with_the_background() -> None:
    """A shape on a plain ground, one corner of it touching the edge: the canvas has the ground's colour, not white."""
    picture = Image.new("RGB", (20, 20), (200, 180, 40))
    picture.paste((10, 10, 10), (0, 0, 6, 6))
    wide = encoded(picture.resize((40, 20), 0))
    bordered = pixels_of(wide, ImagesConfig(mode="border", size=40, pad="edge"))
    for canvas in (np.asarray(on_canvas(picture, (40, 20), "edge")), bordered):
        assert (canvas[-1] == (200, 180, 40)).all() and (canvas[0, -1] == (200, 180, 40)).all()
    assert (np.asarray(on_canvas(picture, (40, 20), "edge"))[:, :10] == (200, 180, 40)).all()


def test_a_canvas_keeps_its_bytes() -> None:
    """What the demos are built from: Pillow's bicubic, PNG and WebP as before."""
    picture = noise(5, 60, 40)
    for form, options in (("png", {"compress_level": 3}), ("webp", {"quality": 90, "method": 2})):
        config = ImagesConfig(mode="border", size=32, format=form, quality=90)
        sink = io.BytesIO()
        out = Image.new("RGB", (32, 32), "white")
        out.paste(picture.resize((32, 21), Image.Resampling.BICUBIC), (0, 5))
        out.save(sink, form.upper(), **options)
        assert prepare(encoded(picture), config).data == sink.getvalue()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_encoding_is_stable_and_as_pillow_writes_it(kind: str) -> None:
    pixels = np.asarray(photo(4, 61, 43))
    for quality in (1, 50, 90, 95, 100):
        first = encode(pixels, kind, quality)
        sink = io.BytesIO()
        options = {"jpg": {"quality": quality}, "png": {"compress_level": 3}, "webp": {"quality": quality, "method": 2}}
        Image.fromarray(pixels).save(sink, {"jpg": "JPEG"}.get(kind, kind), **options[kind])
        assert encode(pixels.copy(), kind, quality) == first == sink.getvalue()
