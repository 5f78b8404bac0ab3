"""Positions of a sample's tokens for the decoder: three of each (time, row, column), equal for text.

plain    0, 1, 2, ...
mrope    the cells of a view: time stands still, row and column count; text goes on behind the largest (Qwen2-VL,
         arXiv 2409.12191)
shared   all cells of a view have one position, its two ends their own (CogVLM, arXiv 2311.03079)
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipeline.stream.geometry import Geometry
from data_pipeline.stream.resolution import PictureLayout


def positions_of(
    count: int, slots: NDArray[np.int64], pictures: Sequence[PictureLayout], geometry: Geometry
) -> NDArray[np.int64]:
    """[3, count] positions of a sample.

    Args:
        count: its tokens.
        slots: [V] places of all tokens of pictures, ascending.
        pictures: how they are laid out, in order.
    """
    if geometry.positions == "plain" or not pictures:
        return np.broadcast_to(np.arange(count) + geometry.first_position, (3, count))
    out, following, done, slot = np.empty((3, count), np.int64), geometry.first_position, 0, 0
    for picture in pictures:
        for view in picture.views:
            start = int(slots[slot])
            out[:, done:start] = np.arange(start - done) + following
            following += start - done
            own = (
                _mrope(view.rows, view.columns) if geometry.positions == "mrope" else _shared(view.rows * view.columns)
            )
            out[:, start : start + own.shape[1]] = own + following
            following += int(own.max()) + 1
            done, slot = start + own.shape[1], slot + own.shape[1]
    out[:, done:] = np.arange(count - done) + following
    return out


def _mrope(rows: int, columns: int) -> NDArray[np.int64]:
    down, across = np.indices((rows, columns)).reshape(2, -1)
    return np.stack([np.zeros_like(down), down, across])


def _shared(cells: int) -> NDArray[np.int64]:
    return np.broadcast_to(np.concatenate([[0], np.ones(cells, np.int64), [2]]), (3, cells + 2))
