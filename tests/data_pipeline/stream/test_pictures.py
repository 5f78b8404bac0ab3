"""Sizes to grids, pixels to patches: limits hold, nothing is lost, the order is the model's."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.stream.images import decode, patch_places, to_patches, views_of
from data_pipeline.stream.layout import Geometry, grid_of, layout, picture_layout
from data_pipeline.stream.resample import resize, resize_squared


@pytest.mark.parametrize("seed", range(5))
def test_grids_keep_their_limits(seed: int) -> None:
    """Four hundred random sizes from dots to strips under random limits."""
    random = np.random.default_rng(seed)
    for _ in range(400):
        most = int(random.integers(1, 1500))
        least = int(random.integers(1, max(2, most // 4 + 1)))
        geometry = Geometry(int(random.integers(4, 33)), int(random.integers(1, 4)), "native", least, most)
        width, height = (int(2 ** random.uniform(0, 14)) for _ in range(2))
        rows, columns = grid_of(width, height, geometry)
        assert rows >= 1 and columns >= 1
        assert rows * columns <= most, f"{width} x {height}, {geometry}"
        assert rows * columns >= least, f"{width} x {height}, {geometry}"


def test_grids_keep_the_aspect_where_there_is_room() -> None:
    """A grid's aspect is its picture's within one cell or so a side, above and below the limits."""
    geometry = Geometry(14, 2, "native", 16, 256)
    random = np.random.default_rng(0)
    for _ in range(300):
        width, height = (int(value) for value in random.integers(40, 4000, 2))
        if max(width, height) > 4 * min(width, height):
            continue
        rows, columns = grid_of(width, height, geometry)
        scale = np.sqrt(rows * columns / (width * height))
        # Measured 1.29, from sides cut down to whole cells; a grid that forgot the aspect would be 8 off.
        assert abs(rows - height * scale) < 1.5 and abs(columns - width * scale) < 1.5


def test_a_picture_within_the_limits_is_rounded_to_cells() -> None:
    geometry = Geometry(14, 2, "native", 1, 1024)
    assert grid_of(280, 140, geometry) == (5, 10)
    assert grid_of(293, 127, geometry) == (5, 10)
    assert grid_of(1, 1, geometry) == (1, 1)
    assert grid_of(999, 7, Geometry(14, 2, "square", size=224)) == (8, 8)
    with pytest.raises(ValueError, match="0 x 5 pixels has no grid"):
        grid_of(0, 5, geometry)


def test_the_layout_counts_all() -> None:
    planned = layout(((56, 28), (28, 28)), 11, 4, Geometry(14, 2, "native"))
    assert (planned.tokens, planned.visual_tokens, planned.patches) == (14, 3, 12)
    assert planned.grids == ((1, 2), (1, 1))


@pytest.mark.parametrize(("patch", "merge"), [(4, 1), (4, 2), (3, 3), (14, 2)])
def test_patches_hold_every_pixel_in_the_order_of_tokens(patch: int, merge: int) -> None:
    random = np.random.default_rng(patch)
    rows, columns = 2, 3  # of tokens
    cell = patch * merge
    picture = random.integers(0, 256, (rows * cell, columns * cell, 3), dtype=np.uint8)
    patches, places = to_patches(picture, patch, merge), patch_places(rows, columns, merge)
    assert patches.shape == (rows * columns * merge**2, 3 * patch * patch) and places.shape == (len(patches), 2)
    again = np.zeros_like(picture)
    for values, (row, column) in zip(patches, places, strict=True):
        cut = values.reshape(3, patch, patch).transpose(1, 2, 0)
        again[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = cut
    assert np.array_equal(again, picture), "patches at their places are not the picture"
    for token in range(rows * columns):
        group = places[token * merge**2 : (token + 1) * merge**2] // merge
        assert (group == divmod(token, columns)).all(), "patches of one visual token are not neighbours"


def test_a_picture_of_its_grids_size_is_not_resampled() -> None:
    geometry = Geometry(14, 2, "native")
    picture = np.random.default_rng(0).integers(0, 256, (28, 56, 3), dtype=np.uint8)
    (view,) = views_of(picture, picture_layout(56, 28, geometry), 28)
    assert np.array_equal(view, picture) and np.shares_memory(view, picture)
    flat = np.full((50, 60, 3), 77, np.uint8)
    (view,) = views_of(flat, picture_layout(60, 50, geometry), 28)
    assert view.shape == (56, 56, 3) and (view == 77).all()


def test_tiles_are_parts_of_the_picture_and_a_thumbnail_is_all_of_it() -> None:
    geometry = Geometry(14, 2, "tiles", size=56, max_tiles=6, thumbnail=True)
    picture = np.random.default_rng(0).integers(0, 256, (112, 168, 3), dtype=np.uint8)
    views = views_of(picture, picture_layout(168, 112, geometry), 28)
    assert len(views) == 7 and all(view.shape == (56, 56, 3) for view in views)
    rows = [np.concatenate(views[start : start + 3], 1) for start in (0, 3)]
    assert np.array_equal(np.concatenate(rows, 0), picture)


def test_anyres_keeps_the_picture_and_lays_it_on_black() -> None:
    geometry = Geometry(14, 1, "anyres", size=28, tile_grids=((1, 2), (2, 1), (2, 2)))
    picture = np.full((20, 56, 3), 200, np.uint8)
    planned = picture_layout(56, 20, geometry)
    views = views_of(picture, planned, 14)
    assert len(views) == 3 and (views[0] == 200).all(), "the base view is all of the picture"
    tiled = np.concatenate(views[1:], 1)
    assert tiled.shape == (28, 56, 3) and (tiled[4:24] == 200).all() and (tiled[[0, 1, 26, 27]] == 0).all()


def test_what_is_no_picture_is_a_value_error() -> None:
    sink = io.BytesIO()
    Image.new("RGB", (64, 64)).save(sink, "JPEG")
    for data in (b"", b"hello", sink.getvalue()[:300]):
        with pytest.raises(ValueError, match="not a picture"):
            decode(data)
    sink = io.BytesIO()
    Image.new("L", (5, 4), 9).save(sink, "PNG")
    assert (decode(sink.getvalue()) == 9).all() and decode(sink.getvalue()).shape == (4, 5, 3)


PILLOWS = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
}


def passes(picture: np.ndarray, width: int, height: int, kernel: str) -> np.ndarray:
    """Pillow's result, rows first."""
    rows = Image.fromarray(picture).resize((width, picture.shape[0]), PILLOWS[kernel])
    return np.asarray(rows.resize((width, height), PILLOWS[kernel]))


@pytest.mark.parametrize("kernel", PILLOWS)
@pytest.mark.parametrize("seed", range(40))
def test_resampling_is_pillows_passes_to_the_byte(seed: int, kernel: Any) -> None:
    random = np.random.default_rng(seed)
    width, height, wanted, tall = (int(2 ** random.uniform(0, 9)) for _ in range(4))
    if seed % 5 == 0:
        wanted, tall = (width, tall) if seed % 2 else (wanted, height)  # one side stays
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if seed % 3 == 0:
        picture = np.where(picture > 127, 255, 0).astype(np.uint8)  # overshoots are cut
    expected = passes(picture, wanted, tall, kernel)
    assert np.array_equal(resize(picture, wanted, tall, kernel), expected), (width, height, wanted, tall)
    left, top = int(random.integers(0, wanted)), int(random.integers(0, tall))
    wide, high = int(random.integers(1, wanted - left + 1)), int(random.integers(1, tall - top + 1))
    part = resize(picture, wanted, tall, kernel, (left, top, wide, high))
    assert np.array_equal(part, expected[top : top + high, left : left + wide])


@pytest.mark.parametrize("kernel", PILLOWS)
@pytest.mark.parametrize("seed", range(20))
def test_bars_need_not_be_made(seed: int, kernel: Any) -> None:
    """What a picture on a square looks like, without that square."""
    random = np.random.default_rng(seed)
    width, height, size = (int(2 ** random.uniform(0, 8.5)) for _ in range(3))
    size = max(width, height) if seed % 7 == 0 else size
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    long, fill = max(width, height), (123, 116, 4)
    square = np.full((long, long, 3), fill, np.uint8)
    top, left = (long - height) // 2, (long - width) // 2
    square[top : top + height, left : left + width] = picture
    assert np.array_equal(resize_squared(picture, size, fill, kernel), passes(square, size, size, kernel))


def test_a_strip_costs_no_more_than_what_is_seen_of_it() -> None:
    """65,535 pixels by 3: cut from 4.9 million rows, or on a square of 4 billion pixels, neither of which is made."""
    strip = np.full((65535, 3, 3), 9, np.uint8)
    for fit, value in (("crop", 9), ("pad", 77), ("stretch", 9)):
        geometry = Geometry(14, 1, "square", size=224, fit=fit, fill=(77, 77, 77))  # type: ignore[arg-type]
        for picture in (strip, strip.transpose(1, 0, 2)):
            (view,) = views_of(picture, picture_layout(*picture.shape[1::-1], geometry), 14)
            assert view.shape == (224, 224, 3) and (view[0, 0] == value).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"quality": 60}, {"quality": 95, "subsampling": 0}, {"progressive": True}])
def test_decoding_is_pillows_to_the_byte(mode: str, options: dict[str, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (67, 93, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).resize((93, 67)).convert(mode).save(sink, "JPEG", **options)
    with Image.open(io.BytesIO(sink.getvalue())) as picture:
        assert np.array_equal(decode(sink.getvalue()), np.asarray(picture.convert("RGB")))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(turned, "JPEG", exif=exif, **options)
    assert decode(turned.getvalue()).shape == (93, 67, 3), "a turned picture was not made upright"
