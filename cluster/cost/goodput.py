"""Checkpoint intervals: what failures cost, by formula (Young 1974, Daly 2006) and by playing them through.

Goodput is the share of wall time that ends up in steps that count: not in checkpoints, restarts, or work done twice.
"""

import random
from dataclasses import dataclass
from math import exp, sqrt

DAY = 86400.0


@dataclass(frozen=True)
class Failures:
    """Seconds: between failures of the whole job, from one to the next step, and of writing a checkpoint (blocking)."""

    between: float
    restart: float
    checkpoint: float


def young(failures: Failures) -> float:
    """Young's interval: sqrt(2 x checkpoint x MTBF) seconds (CACM 17(9), 1974)."""
    return sqrt(2 * failures.checkpoint * failures.between)


def daly(failures: Failures) -> float:
    """Daly's higher-order interval in seconds (FGCS 22(3), 2006, eq. 37)."""
    cost, between = failures.checkpoint, failures.between
    if cost >= 2 * between:
        return between
    ratio = sqrt(cost / (2 * between))
    return sqrt(2 * cost * between) * (1 + ratio / 3 + ratio * ratio / 9) - cost


def expected_goodput(interval: float, failures: Failures) -> float:
    """Daly's expectation for exponential failures: work / wall time of segments of `interval` seconds (eq. 20)."""
    between, cost = failures.between, failures.checkpoint
    wall = between * exp(failures.restart / between) * (exp((interval + cost) / between) - 1)
    return interval / wall


def played_goodput(interval: float, failures: Failures, horizon: float, seed: int) -> float:
    """Goodput of one run of `horizon` seconds of wall time with exponential failures.

    A failure loses what came after the last finished checkpoint; another may come during the restart.
    """
    rng = random.Random(seed)
    wall = done = 0.0
    following = rng.expovariate(1 / failures.between)
    while wall < horizon:
        end = wall + interval + failures.checkpoint
        if end <= following:
            wall, done = end, done + interval
            continue
        wall = following
        while True:
            up = wall + failures.restart
            following = wall + rng.expovariate(1 / failures.between)
            if following >= up:
                wall = up
                break
            wall = following
    return done / wall


def best_interval(failures: Failures, step: float, horizon: float, seed: int, runs: int = 8) -> list[dict[str, float]]:
    """Intervals around Daly's, as whole steps, with expected and played goodput; best played first.

    Every interval meets the same failures (common random numbers), `runs` times.
    """
    centre = daly(failures)
    table = []
    for factor in (0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0):
        steps = max(1, round(centre * factor / step))
        interval = steps * step
        played = sum(played_goodput(interval, failures, horizon, seed + run) for run in range(runs)) / runs
        expected = expected_goodput(interval, failures)
        table.append({"steps": steps, "seconds": interval, "expected": expected, "played": played})
    unique = {row["steps"]: row for row in table}
    return sorted(unique.values(), key=lambda row: -row["played"])
