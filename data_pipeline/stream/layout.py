"""Metadata -> token counts: the one pure function that planner, collator, `inspect` and tests share.

`layout(sizes, text_tokens, label_tokens, geometry)` needs no pixels. The collator must produce exactly these counts and
asserts it. `fit_sample` applies the policy for samples that are longer than a row.

```
configs -> Geometry (geometry.py) -> picture_layout (resolution.py) -> layout, fit_sample -> collate.py
                                  -> measure (measure.py), by columns                     -> planner
```
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from data_pipeline.stream.geometry import Geometry, geometry_of
from data_pipeline.stream.grids import grid_of
from data_pipeline.stream.measure import measure
from data_pipeline.stream.resolution import PictureLayout, least_tokens, picture_layout

__all__ = [
    "Geometry",
    "Layout",
    "PictureLayout",
    "fit_sample",
    "geometry_of",
    "grid_of",
    "layout",
    "measure",
    "picture_layout",
]


@dataclass(frozen=True)
class Layout:
    """Counts of one sample, and how each of its pictures is laid out. `tokens` is what it fills in a row."""

    text_tokens: int
    """Fewer than the sample has where its text is cut."""
    visual_tokens: int
    """Positions of pictures, newlines among them."""
    patches: int
    label_tokens: int
    pictures: tuple[PictureLayout, ...]

    @property
    def tokens(self) -> int:
        return self.text_tokens + self.visual_tokens

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of tokens of each view of each picture."""
        return tuple(grid for picture in self.pictures for grid in picture.grids)


def layout(sizes: Sequence[tuple[int, int]], text_tokens: int, label_tokens: int, geometry: Geometry) -> Layout:
    """Counts of a sample with pictures of `sizes` (width, height) and `text_tokens` tokens around them.

    `text_tokens` counts everything but the visual tokens themselves (the mark that they replace is not counted).
    The course's example, 196 visual and 4 text positions:

    >>> layout(((224, 224),), 4, 0, Geometry(patch=16, merge=1, mode="square", size=224)).tokens
    200
    """
    return _joined(text_tokens, label_tokens, [picture_layout(width, height, geometry) for width, height in sizes])


def _joined(text_tokens: int, label_tokens: int, pictures: Sequence[PictureLayout]) -> Layout:
    visual, patches = sum(p.tokens for p in pictures), sum(p.patches for p in pictures)
    return Layout(text_tokens, visual, patches, label_tokens, tuple(pictures))


def fit_sample(
    sizes: Sequence[tuple[int, int]],
    text_tokens: int,
    runs: Sequence[int],
    last_image: int,
    geometry: Geometry,
    length: int,
    policy: str,
) -> Layout | None:
    """The layout under which a sample fits a row of `length`; None where the policy rejects it.

    reject         a sample that is too long has no layout
    shrink-image   its pictures get fewer tokens, the largest first, down to the resolution's least
    truncate-text  its text ends earlier: after the last picture, and with at least one learned token left

    Args:
        sizes: (width, height) of each picture.
        text_tokens: all tokens but the visual ones.
        runs: lengths of runs of text tokens, by turns not learned and learned, the first not learned.
        last_image: text tokens before the last picture; 0 where there is none.
        policy: `data.long_samples`.
    """
    pictures = [picture_layout(width, height, geometry) for width, height in sizes]
    excess = text_tokens + sum(picture.tokens for picture in pictures) - length
    labels = sum(runs[1::2])
    if excess <= 0:
        return _joined(text_tokens, labels, pictures)
    if policy == "truncate-text":
        keep = text_tokens - excess
        labels = learned_within(runs, keep)
        return _joined(keep, labels, pictures) if keep >= max(1, last_image) and labels else None
    if policy == "shrink-image":
        shrunk = _shrunk(tuple(sizes), tuple(pictures), length - text_tokens, geometry)
        return None if shrunk is None else _joined(text_tokens, labels, shrunk)
    return None


def learned_within(runs: Sequence[int], keep: int) -> int:
    """Learned tokens among the first `keep` text tokens."""
    ends = [0, *accumulate(runs)]
    return sum(max(0, min(ends[n + 1], keep) - ends[n]) for n in range(1, len(runs), 2))


@lru_cache(maxsize=4096)
def _shrunk(
    sizes: tuple[tuple[int, int], ...], whole: tuple[PictureLayout, ...], room: int, geometry: Geometry
) -> list[PictureLayout] | None:
    """Pictures that fill at most `room` tokens together.

    The highest cap on every picture's tokens is found by bisection, so the largest shrink first and the small stay
    whole; what is then left over goes to the largest, then the next.
    """
    least = least_tokens(geometry)

    def capped(cap: int) -> list[PictureLayout]:
        return [
            picture if picture.tokens <= cap else picture_layout(*size, geometry, cap)
            for size, picture in zip(sizes, whole, strict=True)
        ]

    def total(pictures: list[PictureLayout]) -> int:
        return sum(picture.tokens for picture in pictures)

    if not whole or total(capped(least)) > room:
        return None
    fits, fails = least, max(picture.tokens for picture in whole)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if total(capped(middle)) <= room else (fits, middle)
    pictures = capped(fits)
    for n in sorted(range(len(whole)), key=lambda n: -whole[n].tokens):
        if pictures[n] is not whole[n]:
            spare = room - total(pictures)
            larger = picture_layout(*sizes[n], geometry, pictures[n].tokens + spare)
            pictures[n] = max(pictures[n], larger, key=lambda picture: picture.tokens)
    return pictures
