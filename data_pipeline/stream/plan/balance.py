"""Rows that cost alike side by side, and no step a curriculum.

Under ZeRO-3 all ranks wait for the slowest in every micro-step, for the encoder and for attention. So rows are sorted into
blocks of like patches and like attention; blocks are dealt so that steps are more alike than random ones; blocks within a
step, and steps, are shuffled.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

GROUP = 64
"""Most rows that are kept alike: any DP that divides it profits."""
STRATA = 8
"""A step is made of at least so many blocks, from all parts of the sorted order."""
EXCHANGES = 400
"""Pairs of blocks, for each block, whose exchange between steps is tried."""
TRIES = 64
"""Orders of steps that are tried; the one in which load and place have least to do with each other is taken."""

Features = list[NDArray[np.int64]]


def block_rows(rows_per_step: int) -> int:
    """Rows of a block: a power of two that divides the step, GROUP where a step is STRATA blocks of it or more."""
    return min(GROUP, math.gcd(rows_per_step, max(1, 1 << max(1, (rows_per_step // STRATA)).bit_length() - 1)))


def arrange(
    tokens: NDArray[np.int64],
    vision: NDArray[np.int64],
    attention: NDArray[np.int64],
    features: Features,
    rows_per_step: int,
    balance: str,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The order of a window's rows; a pure function of its arguments and the generator's state.

    Args:
        tokens, vision, attention: [R] of each row: positions, patches, sum of squared segment lengths.
        features: columns [R] in which steps should be alike.
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
    dealt = _deal(blocks, max(1, rows_per_step // size), vision, features, rng)
    return np.concatenate([dealt.reshape(-1), shuffled[whole:]])


def _sorted(
    rows: NDArray[np.int64], vision: NDArray[np.int64], attention: NDArray[np.int64], size: int
) -> NDArray[np.int64]:
    """Rows sorted into bands of vision, in each by attention, with the number of bands that wastes least."""
    by_vision = rows[np.lexsort((attention[rows], vision[rows]))]
    best, least = by_vision, np.inf
    blocks = len(rows) // size
    bands = 1
    while bands <= max(1, blocks):
        cuts = np.linspace(0, blocks, bands + 1).astype(np.int64) * size
        parts = [by_vision[a:b] for a, b in itertools.pairwise(cuts)]
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
    blocks: NDArray[np.int64], per_step: int, vision: NDArray[np.int64], features: Features, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Blocks in the order of training: dealt at random, then exchanged between steps while that makes these more alike."""
    from data_pipeline.stream.plan.kernels import even_out

    steps = len(blocks) // per_step
    shuffled = rng.permutation(len(blocks))
    dealt, rest = shuffled[: steps * per_step].reshape(steps, per_step), shuffled[steps * per_step :]
    if steps > 1 and per_step > 1:
        dealt = even_out(dealt.copy(), _scaled(blocks, per_step, features), EXCHANGES * len(blocks))
        dealt = np.stack([rng.permutation(row) for row in dealt])
    load = vision[blocks].sum(1)[dealt].sum(1).astype(np.float64)
    return np.concatenate([blocks[dealt[_shuffled(load, rng)].reshape(-1)], blocks[rest]])


def _scaled(blocks: NDArray[np.int64], per_step: int, features: Features) -> NDArray[np.int64]:
    """[blocks, F] features in thousandths of what steps of random rows vary by."""
    out = np.zeros((len(blocks), len(features)), np.int64)
    for column, values in enumerate(features):
        rows = values[blocks]
        usual = math.sqrt(per_step * blocks.shape[1] * float(np.var(rows)))
        if usual:
            sums = rows.sum(1).astype(np.float64)
            out[:, column] = np.rint((sums - sums.mean()) / usual * 1000)
    return out


def _shuffled(load: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """An order of steps in which load does not rise or fall with time."""
    place = np.arange(len(load)) - (len(load) - 1) / 2
    orders = [rng.permutation(len(load)) for _ in range(TRIES if len(load) > 2 else 1)]
    return min(orders, key=lambda order: abs(float(place @ load[order])))
