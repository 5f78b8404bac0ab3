"""Sizes to tokens under every resolution policy: columns as one by one, published counts, and samples that are too long."""

from typing import Any

import numpy as np
import pytest

from data_pipeline.stream.layout import Geometry, fit_sample, layout, measure, picture_layout
from data_pipeline.stream.resolution import NEWLINE, least_tokens, slot_order

PINPOINTS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
GEOMETRIES = {
    "native": Geometry(14, 2, "native", 4, 256),
    "native, tight": Geometry(16, 1, "native", 60, 64),
    "smart resize": Geometry(14, 2, "native", 4, 1280, rounding="smart_resize"),
    "square": Geometry(16, 1, "square", size=224),
    "tiles": Geometry(14, 2, "tiles", size=448, max_tiles=12, thumbnail=True),
    "tiles without": Geometry(14, 2, "tiles", size=448, min_tiles=2, max_tiles=6),
    "anyres": Geometry(14, 1, "anyres", size=336, tile_grids=PINPOINTS),
    "rows and columns": Geometry(16, 4, "row_column", size=512, longest=2048),
    "odd rows and columns": Geometry(5, 1, "row_column", size=15, longest=105),
    "pooled": Geometry(32, 1, "native", 4, 40, pooled=True),
    "pooled square": Geometry(32, 1, "square", size=224, pooled=True),
    "pooled tiles": Geometry(32, 1, "tiles", size=224, max_tiles=6, thumbnail=True, pooled=True),
}


def sizes(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    common = np.exp(random.uniform(0, np.log(65535), (count, 2))).astype(int)
    extreme = np.array(
        [
            [1, 1],
            [1, 10000],
            [10000, 1],
            [65535, 3],
            [3, 65535],
            [336, 336],
            [448, 896],
            [672, 336],
            [1400, 365],
            [1095, 1400],
        ]
    )
    return np.maximum(1, np.concatenate([common, extreme]))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_columns_are_what_each_picture_gets(geometry: Geometry) -> None:
    wanted = sizes(3000)
    tokens, patches = measure(wanted[:, 0], wanted[:, 1], geometry)
    for (width, height), count, load in zip(wanted.tolist(), tokens.tolist(), patches.tolist(), strict=True):
        planned = picture_layout(width, height, geometry)
        assert (planned.tokens, planned.patches) == (count, load), (width, height)
        cells = sum(rows * columns for rows, columns in planned.grids)
        assert planned.patches == cells * geometry.merge**2
        assert planned.outputs == (len(planned.views) if geometry.pooled else cells)
        assert geometry.mode != "native" or geometry.min_tokens <= cells <= geometry.max_tokens, (width, height)
        if geometry.mode != "tiles" and geometry.pooled:
            assert count == 1


def test_a_geometry_of_before_keeps_its_name() -> None:
    """Plans and cached features are kept under it; what is new changes only the names of those that use it."""
    assert repr(Geometry(14, 2, "native", 4, 256)) == (
        "Geometry(patch=14, merge=2, mode='native', min_tokens=4, max_tokens=256, size=0, rounding='cells', min_tiles=1, "
        "max_tiles=1, thumbnail=False, tile_grids=())"
    )
    names = {repr(Geometry(14, 1, "square", size=224, fit=fit, filter=kernel)) for fit, kernel in USES}
    assert len(names) == len(USES)


USES: tuple[Any, ...] = (("stretch", "bicubic"), ("stretch", "lanczos"), ("crop", "bicubic"), ("pad", "bicubic"))


# Tokens by transformers 5.24.0: LlavaNextProcessor (336, patch 14), GotOcr2's tiling (448, 1 to 12, thumbnail, 256 a tile),
# smart_resize (factor 28, 4 to 1280 cells). 20,000 random sizes agreed for each when this was written.
PUBLISHED = {
    (336, 336): (1176, 256, 144),
    (672, 336): (1752, 768, 288),
    (640, 480): (2340, 3328, 391),
    (480, 640): (2352, 3328, 391),
    (1000, 1000): (2928, 2560, 1225),
    (100, 900): (1224, 2560, 128),
    (1920, 1080): (1948, 2304, 1222),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_counts_are_those_of_published_preprocessors(size: tuple[int, int]) -> None:
    names = ("anyres", "tiles", "smart resize")
    assert tuple(picture_layout(*size, GEOMETRIES[name]).tokens for name in names) == PUBLISHED[size]


def test_anyres_closes_each_row_with_a_newline_and_drops_padding() -> None:
    planned = picture_layout(672, 336, GEOMETRIES["anyres"])
    order = slot_order(planned, newlines=True)
    assert order is not None and len(order) == planned.tokens
    assert order[:576].tolist() == list(range(576))
    lines = order[576:].reshape(24, 49)
    assert (lines[:, -1] == NEWLINE).all()
    assert sorted(lines[:, :-1].reshape(-1).tolist()) == list(range(576, 3 * 576))
    assert lines[0, :2].tolist() == [576, 577] and lines[0, 24] == 2 * 576, "tiles lie side by side"
    thin = picture_layout(1000, 100, GEOMETRIES["anyres"])
    assert thin.tokens < thin.outputs, "padding above and below is not dropped"


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_long_samples_by_each_policy(geometry: Geometry) -> None:
    """What fits stays whole; pictures shrink only as far as it takes; text is cut behind the last picture alone."""
    random = np.random.default_rng(1)
    for _ in range(150):
        pictures = [tuple(int(v) for v in random.integers(20, 1500, 2)) for _ in range(random.integers(1, 4))]
        before, questions, answers = (int(v) for v in random.integers(1, 200, 3))
        runs, last = [before + questions, answers], before
        text = sum(runs)
        whole = layout(pictures, text, answers, geometry)
        length = int(random.integers(whole.tokens // 3, whole.tokens + 20))
        found = {
            p: fit_sample(pictures, text, runs, last, geometry, length, p)
            for p in ("reject", "shrink-image", "truncate-text")
        }
        if whole.tokens <= length:
            assert all(planned == whole for planned in found.values())
            continue
        assert found["reject"] is None
        shrunk, cut = found["shrink-image"], found["truncate-text"]
        if shrunk is not None:
            assert shrunk.tokens <= length and shrunk.text_tokens == text and shrunk.label_tokens == answers
            assert len(shrunk.pictures) == len(pictures)
        else:
            assert text + least_tokens(geometry) * len(pictures) > length
        if cut is not None:
            assert cut.tokens == length and cut.visual_tokens == whole.visual_tokens
            assert cut.text_tokens > before and cut.label_tokens == cut.text_tokens - before - questions > 0
        else:
            assert whole.visual_tokens + before + questions >= length
