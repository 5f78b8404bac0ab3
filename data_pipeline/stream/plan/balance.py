"""Rows that cost alike side by side, and no step a curriculum.

Under ZeRO-3 all ranks wait for the slowest in every micro-step, for the encoder and for attention. So rows are sorted into
blocks of like patches and like attention; a step takes one block from each stratum of the sorted order, so that steps are
more alike than random ones; blocks within a step, and steps, are shuffled.
"""

import math

import numpy as np
from numpy.typing import NDArray

GROUP = 64
"""Most rows that are kept alike: any DP that divides it profits."""
STRATA = 8
"""A step is made of at least so many blocks, from all parts of the sorted order."""
TRIES = 64
"""Orders of steps that are tried; the one in which load and place have least to do with each other is taken."""


def block_rows(rows_per_step: int) -> int:
    """Rows of a block: a power of two that divides the step, GROUP where a step is STRATA blocks of it or more."""
    return min(GROUP, math.gcd(rows_per_step, max(1, 1 << max(1, (rows_per_step // STRATA)).bit_length() - 1)))


def arrange(
    tokens: NDArray[np.int64],
    vision: NDArray[np.int64],
    attention: NDArray[np.int64],
    rows_per_step: int,
    balance: str,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The order of a window's rows; a pure function of its arguments and the generator's state.

    Args:
        tokens, vision, attention: [R] of each row: positions, patches, sum of squared segment lengths.
        balance: `group`, or `none` for a random order.
    """
    count = len(tokens)
    if balance == "none" or count == 0:
        return rng.permutation(count)
    size = block_rows(rows_per_step)
    whole = count // size * size
    # What makes no whole block goes last; it is random rows, so that the blocks keep their alikeness.
    shuffled = rng.permutation(count)
    order = _sorted(shuffled[:whole], vision, attention, size)
    alike = [block[np.lexsort((attention[block], vision[block]))] for block in order.reshape(-1, size)]
    blocks = np.stack([_tree(block, rng) for block in alike]) if whole else order.reshape(0, size)
    dealt = _deal(blocks, max(1, rows_per_step // size), vision, rng)
    return np.concatenate([dealt.reshape(-1), shuffled[whole:]])


def _sorted(rows: NDArray[np.int64], vision: NDArray[np.int64], attention: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Rows sorted into bands of vision, in each by attention, with the number of bands that wastes least."""
    by_vision = rows[np.lexsort((attention[rows], vision[rows]))]
    best, least = by_vision, np.inf
    blocks = len(rows) // size
    bands = 1
    while bands <= max(1, blocks):
        cuts = np.linspace(0, blocks, bands + 1).astype(np.int64) * size
        parts = [by_vision[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        order = np.concatenate([part[np.lexsort((vision[part], attention[part]))] for part in parts])
        waste = 4 * _waste(vision[order], size) + _waste(attention[order], size)
        if waste < least:
            best, least = order, waste
        bands *= 2
    return best


def _waste(load: NDArray[np.int64], size: int) -> float:
    blocks = load.reshape(-1, size)
    mean = float(blocks.mean()) if blocks.size else 0.0
    return float(blocks.max(1).mean()) / mean - 1 if mean else 0.0


def _tree(block: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Shuffle a sorted block so that each aligned run of 2, 4, 8, ... rows is still a run of neighbours."""
    out = block
    size = 1
    while size < len(block):
        pairs = out.reshape(-1, 2, size)
        flip = rng.integers(0, 2, len(pairs)).astype(bool)
        pairs[flip] = pairs[flip][:, ::-1]
        out = pairs.reshape(-1)
        size *= 2
    return out


def _deal(
    blocks: NDArray[np.int64], per_step: int, vision: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Blocks in the order of training: each step one of every stratum."""
    steps = len(blocks) // per_step
    dealt = np.empty((steps, per_step), np.int64)
    for stratum in range(per_step):
        dealt[:, stratum] = rng.permutation(np.arange(stratum * steps, (stratum + 1) * steps))
    rest = np.arange(steps * per_step, len(blocks))
    dealt = np.stack([rng.permutation(row) for row in dealt]) if steps else dealt
    load = vision[blocks].sum(1)[dealt].sum(1).astype(np.float64)
    return np.concatenate([blocks[dealt[_shuffled(load, rng)].reshape(-1)], blocks[rest]])


def _shuffled(load: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """An order of steps in which load does not rise or fall with time."""
    place = np.arange(len(load)) - (len(load) - 1) / 2
    orders = [rng.permutation(len(load)) for _ in range(TRIES if len(load) > 2 else 1)]
    return min(orders, key=lambda order: abs(float(place @ load[order])))
