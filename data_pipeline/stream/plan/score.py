"""What a plan costs on D data-parallel ranks: fill, what the encoder waits for, and lockstep efficiency.

Under ZeRO-3 all ranks meet in every layer, so in each micro-step all wait for the slowest, in the vision phase and in the
attention phase; the decoder's linears cost a whole row whatever it holds. `lockstep` is useful work over work spent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPES = {
    "0.3B+7B": (7.3e11, 1.34e10, 2 * 4096 * 32),
    "6B+20B": (1.27e13, 4.0e10, 2 * 6144 * 48),
    "93M+360M": (2.1e11, 7.2e8, 2 * 960 * 32),
}
"""Encoder + decoder: FLOPs of 1024 patches in the encoder, of a position in the decoder's linears, of a pair in attention."""
TILE = 1024


@dataclass(frozen=True)
class Loads:
    """Of each row [R]: positions filled, patches, and the sum of its segments' squared lengths."""

    tokens: NDArray[np.int64]
    patches: NDArray[np.int64]
    attention: NDArray[np.int64]

    @staticmethod
    def of(tokens: NDArray[np.int32], patches: NDArray[np.int32], starts: NDArray[np.int64]) -> "Loads":
        """Rows of samples; starts [R + 1]."""
        if len(starts) < 2:
            return Loads(*(np.zeros(0, np.int64) for _ in range(3)))
        wide = tokens.astype(np.int64)
        return Loads(*(np.add.reduceat(values, starts[:-1]) for values in (wide, patches.astype(np.int64), wide**2)))


def fill(loads: Loads, length: int) -> float:
    """Part of all positions that is filled."""
    return float(loads.tokens.sum() / max(1, len(loads.tokens) * length))


def balance(loads: Loads, length: int, ranks: int) -> dict[str, float]:
    """`vision_waste`: part of the encoder's time that ranks wait; `lockstep NAME`: efficiency at each of SHAPES.

    Rows that make no whole micro-step of `ranks` rows at the end are left out.
    """
    whole = len(loads.tokens) // ranks * ranks
    if not whole:
        return {}
    tokens, patches, attention = (
        values[:whole].reshape(-1, ranks).astype(float)
        for values in (loads.tokens, loads.patches / TILE, loads.attention)
    )
    slowest = patches.max(1).mean()
    out = {"vision_waste": float(1 - patches.mean() / slowest) if slowest else 0.0}
    for name, (tile, linear, pair) in SHAPES.items():
        useful = patches.sum() * tile + tokens.sum() * linear + attention.sum() * pair
        spent = ranks * (patches.max(1).sum() * tile + attention.max(1).sum() * pair) + whole * length * linear
        out[f"lockstep {name}"] = float(useful / spent)
    return out


def balance_lines(found: dict[str, dict[str, float]]) -> list[str]:
    """A line for each number of ranks."""
    return [
        f"DP {ranks:>2}: vision waste {values['vision_waste']:.2%}, lockstep "
        + ", ".join(f"{name.split()[1]} {value:.2%}" for name, value in values.items() if name != "vision_waste")
        for ranks, values in found.items()
    ]
