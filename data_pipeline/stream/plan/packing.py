"""Samples into rows of fixed length: best fit, longest first, in near-linear time by room left.

With thousands of samples and a little more tokens than the rows hold, first the long samples open rows and then ever
shorter ones fill what is left; the remainder is the next window's. No sample is split or dropped.
"""

import numpy as np
from numpy.typing import NDArray


def pack(
    lengths: NDArray[np.int64],
    images: NDArray[np.int64],
    first: NDArray[np.bool_],
    rows: int,
    length: int,
    max_images: int | None = None,
) -> tuple[list[list[int]], list[int]]:
    """Put samples into exactly `rows` rows.

    Args:
        lengths: [n] tokens of each sample, at most `length`.
        images: [n] pictures of each.
        first: [n] samples that must not wait again: placed before all others.
    Returns:
        (indices of each row, indices that are left over), both in a fixed order.
    """
    order = np.lexsort((np.arange(len(lengths)), -lengths, ~first))
    by_room: list[list[int]] = [[] for _ in range(length + 1)]
    by_room[length] = list(range(rows - 1, -1, -1))
    occupied = np.zeros(length + 1, bool)
    occupied[length] = True
    members: list[list[int]] = [[] for _ in range(rows)]
    pictures = np.zeros(rows, np.int64)
    left: list[int] = []
    for index in order:
        size = int(lengths[index])
        row = _take(by_room, occupied, size, length, pictures, int(images[index]), max_images)
        if row is None:
            left.append(int(index))
            continue
        target, room = row
        members[target].append(int(index))
        pictures[target] += int(images[index])
        by_room[room - size].append(target)
        occupied[room - size] = True
    return members, sorted(left)


def _take(
    by_room: list[list[int]],
    occupied: NDArray[np.bool_],
    size: int,
    length: int,
    pictures: NDArray[np.int64],
    images: int,
    max_images: int | None,
) -> tuple[int, int] | None:
    """Remove and return (row, its room): the fullest row that still holds `size` and the pictures."""
    room = size
    while room <= length:
        step = int(np.argmax(occupied[room:]))
        room += step
        if not occupied[room]:
            return None
        rows = by_room[room]
        for place in range(len(rows) - 1, -1, -1):
            row = rows[place]
            if max_images is None or pictures[row] + images <= max_images or pictures[row] == 0:
                rows.pop(place)
                occupied[room] = bool(rows)
                return row, room
        room += 1
    return None
