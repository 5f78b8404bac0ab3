"""Steps of many ranks, one by one: rows of the plan with their own cost, jitter, slow nodes; then failures over days.

A micro-step takes as long as its slowest rank. Rows come in plan order, micro-step m and rank r as the loader gives them.
"""

import random
from typing import Any

from cluster.cost.estimate import Estimate, Estimator, Setting
from cluster.cost.goodput import DAY, Failures, best_interval, daly, young
from cluster.cost.sizes import checkpoint_bytes

SLOW_SHARE, SLOWER = 0.002, 0.15
"""Devices that are slow for good, and by how much: an allowance (one in 500, 15 %)."""


def simulate(estimator: Estimator, setting: Setting, mtbf_hours: float, steps: int, seed: int) -> dict[str, Any]:
    """Distribution of step times, goodput by checkpoint interval, and the best one beside Young's and Daly's.

    Args:
        mtbf_hours: of one device; a job of n devices fails n times as often.
        steps: to time.
    """
    estimate = estimator.run(setting)
    times, parts = step_times(estimator, estimate, steps, seed)
    ordered = sorted(times)
    mean = sum(times) / len(times)
    hardware = estimator.hardware
    nodes = max(1, -(-setting.ranks // hardware.devices_per_node))
    rate = min(hardware.storage_gb_per_s * nodes, hardware.storage_limit_gb_per_s or float("inf"))
    written = checkpoint_bytes(estimate.model).each / (rate * 1e9)
    failures = Failures(mtbf_hours * 3600 / setting.ranks, hardware.restart_minutes * 60, written)
    run = mean * estimator.recipe.stage.steps
    table = best_interval(failures, mean, max(run, 30 * DAY), seed)
    best, every = table[0], estimator.recipe.checkpoint.every
    return {
        "ranks": setting.ranks,
        "dp": setting.dp,
        "tp": setting.tp,
        "zero": setting.zero,
        "micro_steps": estimate.micro_steps,
        "idle_ranks": max(0, setting.dp - -(-estimator.recipe.data.packing.rows_per_step // setting.rows_per_rank)),
        "step_seconds": {
            "mean": mean,
            **{f"p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (5, 50, 95, 99)},
            "estimate": estimate.seconds.total,
        },
        "lost_to": parts,
        "tokens_per_s": estimate.tokens / mean,
        "mfu": estimate.useful / mean / estimate.peak,
        "job_mtbf_hours": failures.between / 3600,
        "checkpoint_seconds": written,
        "restart_seconds": failures.restart,
        "intervals": sorted(table, key=lambda row: row["steps"]),
        "best": best,
        "young": {"seconds": young(failures), "steps": young(failures) / mean},
        "daly": {"seconds": daly(failures), "steps": daly(failures) / mean},
        "recipe_every": every,
        "days": run / best["played"] / DAY,
        "gpu_hours": run / best["played"] / 3600 * setting.ranks,
    }


def step_times(estimator: Estimator, estimate: Estimate, steps: int, seed: int) -> tuple[list[float], dict[str, float]]:
    """Seconds of each step, and the mean share of a step that is lost to rows, jitter and slow ranks."""
    setting, rng = estimate.setting, random.Random(seed)
    base, slopes = estimator.slopes(setting)
    costs = [sum(s * f for s, f in zip(slopes, row, strict=True)) for row in estimator.rows.features]
    dp, each, micro = setting.dp, setting.rows_per_rank, estimate.micro_steps
    rows_per_step = estimator.recipe.data.packing.rows_per_step
    slow = [1 + SLOWER if rng.random() < SLOW_SHARE else 1.0 for _ in range(setting.ranks)]
    lasting = [max(slow[r * setting.tp : (r + 1) * setting.tp]) for r in range(dp)]
    seconds = estimate.seconds
    around = seconds.exposed + seconds.update + seconds.host + seconds.engine
    times, lost, place = [], {"rows": 0.0, "jitter and slow ranks": 0.0}, 0
    for _ in range(steps):
        total = mean = even = 0.0
        for m in range(micro):
            loads = []
            for r in range(dp):
                first = (m * dp + r) * each
                held = [costs[(place + first + k) % len(costs)] for k in range(each) if first + k < rows_per_step]
                loads.append(base + sum(held))
            wide = max(1e-9, estimator.hardware.jitter)
            shaken = [load * lasting[r] * (1 + abs(rng.gauss(0, wide))) for r, load in enumerate(loads)]
            total += max(shaken)
            even += max(loads)
            mean += sum(loads) / dp
        place += rows_per_step
        times.append(total + around)
        lost["rows"] += (even - mean) / (total + around) / steps
        lost["jitter and slow ranks"] += (total - even) / (total + around) / steps
    return times, lost
