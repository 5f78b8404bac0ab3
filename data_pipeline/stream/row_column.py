"""Pictures as rows and columns of tiles with text tokens between them (Idefics3, SmolVLM): sizes, counts, order of tokens.

Where tiles are, the tokens of a picture are

    fake row_1_col_1 TILE  fake row_1_col_2 TILE ... line
    ...                                              lines
    fake global PICTURE fake

and without tiles the last line alone. `line` is a line's end, `lines` two of them in one token.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # layouts alone are asked for on login nodes, which need no numpy
    import numpy as np
    from numpy.typing import NDArray

MOST = 16
"""Tiles along a side that have names."""
MARKS = (
    "<fake_token_around_image>",
    "<global-img>",
    "\n",
    "\n\n",
    *(f"<row_{row}_col_{column}>" for row in range(1, MOST + 1) for column in range(1, MOST + 1)),
)
"""Texts of the marks, each one token of the tokenizer."""
FAKE, GLOBAL, LINE, LINES, TILE = -2, -3, -4, -5, -6
"""In a slot order: mark k of MARKS is -2 - k; the tiles' names start at TILE."""


def row_column(width: int, height: int, longest: int, size: int) -> tuple[tuple[int, int], int, int]:
    """((width, height) with the longest side brought to `longest`, rows, columns of tiles); 0 rows: one tile holds it all.

    Both of the published steps round by floats; the same operations are done here.
    """
    aspect = width / height
    if width >= height:
        width = longest
        height = int(width / aspect)
        height += height % 2
    else:
        height = longest
        width = int(height * aspect)
        width += width % 2
    first = width, height = max(width, 1), max(height, 1)
    aspect = width / height
    if width >= height:
        width = math.ceil(width / size) * size
        height = math.ceil(int(width / aspect) / size) * size
    else:
        height = math.ceil(height / size) * size
        width = math.ceil(int(height * aspect) / size) * size
    if width <= size and height <= size:
        return first, 0, 0
    return first, height // size, width // size


def whole_tokens(view: int) -> int:
    """Tokens of a picture that is not cut, of `view` visual tokens a view."""
    return view + 3


def row_column_tokens(rows: int, columns: int, view: int) -> int:
    """Tokens of a picture, text marks among them."""
    return rows * columns * (view + 2) + rows + whole_tokens(view)


def mark_order(rows: int, columns: int, view: int) -> "NDArray[np.int64]":
    """[tokens] which visual token stands at each place of a picture; below -1: a mark."""
    import numpy as np

    order: list[int] = []
    for row in range(rows):
        for column in range(columns):
            start = (row * columns + column) * view
            order += [FAKE, TILE - (row * MOST + column), *range(start, start + view)]
        order.append(LINE if row < rows - 1 else LINES)
    start = rows * columns * view
    return np.array([*order, FAKE, GLOBAL, *range(start, start + view), FAKE], np.int64)


def marks_up_to(side: int) -> tuple[str, ...]:
    """The marks that pictures of at most side x side tiles need."""
    return tuple(MARKS[:4]) + tuple(MARKS[4 + r * MOST + c] for r in range(side) for c in range(side))
