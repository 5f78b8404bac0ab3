"""The part of packing.py about mixtures: how far any prefix is from its shares, and draws a second."""

import time

import numpy as np

from data_pipeline.stream.plan.mixture import Mixture

MIXTURES = 150
DRAWS = 100_000
PIECE = 300_000
"""Tokens after which the weights are others, in the mixtures whose weights change."""
READY = 2_500


def lengths(random: np.random.Generator, sources: int) -> list[np.ndarray]:
    """Long-tailed lengths, another scale for each source."""
    scales = random.uniform(3, 7, sources)
    return [np.clip(np.exp(random.normal(scale, 0.8, DRAWS)), 5, 6000).astype(np.int32) for scale in scales]


def drift(choices: np.ndarray, weights: np.ndarray, parts: list[np.ndarray], unit: str) -> float:
    """Most that any source is away from what it should have, over all prefixes.

    In samples; with shares of tokens in the longest sample that was drawn or next in turn so far.
    """
    sizes, longest = np.ones(len(choices)), np.ones(len(choices))
    if unit == "tokens":
        for source, part in enumerate(parts):
            own = choices == source
            sizes[own] = part[: own.sum()]
            longest = np.maximum(longest, part[np.cumsum(own) - own])
        longest = np.maximum.accumulate(longest)
    took = np.zeros((len(choices), weights.shape[1]))
    took[np.arange(len(choices)), choices] = sizes
    away = np.abs(np.cumsum(took, 0) - np.cumsum(weights * sizes[:, None], 0)).max(1)
    return float((away / longest).max())


def ours(
    weights: list[np.ndarray], parts: list[np.ndarray], unit: str, foreseen: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Choices and the share that was wanted at each."""
    cursors, credit, longest = np.zeros(len(parts), np.int64), [0.0] * len(parts), 1
    choices, wanted = [], []
    for shares, after in zip(weights, [*weights[1:], weights[-1]], strict=True):
        left = PIECE
        while left > 0:  # a piece ends where a source has no sample ready, as in the planner
            mixture = Mixture(shares.tolist(), credit, unit, longest, after.tolist() if foreseen else ())
            ready = [part[at : at + READY] for part, at in zip(parts, cursors, strict=True)]
            found = mixture.draw(ready, left)
            choices.append(found)
            wanted.append(np.tile(shares / shares.sum(), (len(found), 1)))
            for source, part in enumerate(ready):
                count = int((found == source).sum())
                left -= int(part[:count].sum())
                cursors[source] += count
            credit, longest = list(mixture.credit), mixture.longest
    return np.concatenate(choices), np.concatenate(wanted)


def largest_deficit(shares: np.ndarray, parts: list[np.ndarray], unit: str, count: int) -> np.ndarray:
    """The usual rule: whichever source is furthest behind."""
    shares = shares / shares.sum()
    credit, cursors, out = np.zeros(len(parts)), np.zeros(len(parts), np.int64), np.empty(count, np.int64)
    for draw in range(count):
        chosen = int(np.argmax(credit))
        size = 1 if unit == "samples" else int(parts[chosen][cursors[chosen]])
        credit += shares * size
        credit[chosen] -= size
        cursors[chosen] += 1
        out[draw] = chosen
    return out


def speed(unit: str) -> float:
    """Draws a second of 8 sources, pieces of a window's size."""
    random = np.random.default_rng(0)
    parts = [random.integers(10, 6000, 200_000).astype(np.int32) for _ in range(8)]
    shares = random.dirichlet(np.ones(8)).tolist()
    best = 0.0
    for _ in range(4):
        mixture, start = Mixture(shares, [0.0] * 8, unit), time.perf_counter()
        best = max(best, len(mixture.draw(parts, 4096 * 8192 * 16)) / (time.perf_counter() - start))
    return best


def measure() -> None:
    print(
        f"Furthest from its share that any source is in any prefix, worst of {MIXTURES} random mixtures of 2 to 12 sources.\n"
    )
    print(
        "| shares of | looksay | weights that change | the same, foreseen | largest deficit | draws/s, 8 sources |\n|---|---|---|---|---|---|"
    )
    for unit in ("samples", "tokens"):
        worst = {"fixed": 0.0, "changing": 0.0, "foreseen": 0.0, "deficit": 0.0}
        for seed in range(MIXTURES):
            random = np.random.default_rng(seed)
            sources = int(random.integers(2, 13))
            parts = lengths(random, sources)
            weights = [random.dirichlet(np.full(sources, 0.5)) + 1e-3 for _ in range(6)]
            for name, used in (("fixed", weights[:1] * 6), ("changing", weights), ("foreseen", weights)):
                choices, wanted = ours(used, parts, unit, name == "foreseen")
                worst[name] = max(worst[name], drift(choices, wanted, parts, unit))
            choices = largest_deficit(weights[0], parts, unit, 6000)
            wanted = np.tile(weights[0] / weights[0].sum(), (len(choices), 1))
            worst["deficit"] = max(worst["deficit"], drift(choices, wanted, parts, unit))
        print(
            f"| {unit} | {worst['fixed']:.3f} | {worst['changing']:.3f} | {worst['foreseen']:.3f} | {worst['deficit']:.3f} | {speed(unit) / 1e6:.1f} M |"
        )
