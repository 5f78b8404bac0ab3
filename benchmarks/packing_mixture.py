"""The part of packing.py about mixtures: how far any prefix is from its shares, and draws a second."""

import time

import numpy as np

from data_pipeline.stream.plan.mixture import Mixture

MIXTURES = 150
DRAWS = 20_000
CHANGED = 2_500
"""Draws after which the weights are others, in the mixtures whose weights change."""


def lengths(random: np.random.Generator, sources: int) -> list[np.ndarray]:
    """Long-tailed lengths, another scale for each source."""
    scales = random.uniform(3, 7, sources)
    return [np.clip(np.exp(random.normal(scale, 0.8, DRAWS)), 5, 6000).astype(np.int32) for scale in scales]


def drift(choices: np.ndarray, weights: np.ndarray, sizes: np.ndarray) -> float:
    """Most that any source is away from what it should have, over all prefixes, in samples (the longest drawn)."""
    took = np.zeros((len(choices), weights.shape[1]))
    took[np.arange(len(choices)), choices] = sizes
    wanted = weights * sizes[:, None]
    away = np.abs(np.cumsum(took, 0) - np.cumsum(wanted, 0)).max(1)
    return float((away / np.maximum.accumulate(sizes)).max())


def ours(weights: list[np.ndarray], parts: list[np.ndarray], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Choices and the share that was wanted at each."""
    cursors, credit, longest = np.zeros(len(parts), np.int64), [0.0] * len(parts), 1
    choices, wanted = [], []
    for shares in weights:
        mixture = Mixture(shares.tolist(), credit, unit, longest)
        ready = [part[at : at + CHANGED] for part, at in zip(parts, cursors, strict=True)]
        found = mixture.draw(ready, _some(ready, shares))
        choices.append(found)
        wanted.append(np.tile(shares / shares.sum(), (len(found), 1)))
        cursors += np.bincount(found, minlength=len(parts))
        credit, longest = list(mixture.credit), mixture.longest
    return np.concatenate(choices), np.concatenate(wanted)


def _some(ready: list[np.ndarray], shares: np.ndarray) -> int:
    """Tokens of about half of CHANGED draws."""
    return int(CHANGED / 2 * sum(part.mean() * share for part, share in zip(ready, shares / shares.sum(), strict=True)))


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


def sizes_of(choices: np.ndarray, parts: list[np.ndarray], unit: str) -> np.ndarray:
    if unit == "samples":
        return np.ones(len(choices))
    out = np.empty(len(choices))
    for source, part in enumerate(parts):
        own = choices == source
        out[own] = part[: own.sum()]
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
    print("| shares of | looksay | weights that change | largest deficit | draws/s, 8 sources |\n|---|---|---|---|---|")
    for unit in ("samples", "tokens"):
        worst = {"fixed": 0.0, "changing": 0.0, "deficit": 0.0}
        for seed in range(MIXTURES):
            random = np.random.default_rng(seed)
            sources = int(random.integers(2, 13))
            parts = lengths(random, sources)
            weights = [random.dirichlet(np.full(sources, 0.5)) + 1e-3 for _ in range(6)]
            for name, used in (("fixed", weights[:1] * 6), ("changing", weights)):
                choices, wanted = ours(used, parts, unit)
                worst[name] = max(worst[name], drift(choices, wanted, sizes_of(choices, parts, unit)))
            choices = largest_deficit(weights[0], parts, unit, 6000)
            wanted = np.tile(weights[0] / weights[0].sum(), (len(choices), 1))
            worst["deficit"] = max(worst["deficit"], drift(choices, wanted, sizes_of(choices, parts, unit)))
        print(
            f"| {unit} | {worst['fixed']:.3f} | {worst['changing']:.3f} | {worst['deficit']:.3f} | {speed(unit) / 1e6:.1f} M |"
        )
