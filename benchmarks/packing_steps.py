"""The part of packing.py about optimizer steps: how much they differ, whether load follows time, how far samples move."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from packing import CHUNK, WINDOW, Plan, draw_order, planned, repeated, trend, worst

from data_pipeline.stream.plan.bare import BareLengths, LengthSet
from data_pipeline.stream.plan.planner import Planner
from data_pipeline.stream.plan.rows import Drawn
from data_pipeline.stream.plan.score import Loads
from data_pipeline.stream.plan.window import PlanSettings

RANDOM_PLANS = 20


def measure(paths: list[str]) -> None:
    """Steps against steps of the same rows in random order; distance from draw to training."""
    print(
        "| set, L | rows a step | mean length | text only | source | vision | its sd | trend | random | furthest | DP 8 / 64 |"
    )
    print("|---" * 11 + "|")
    sets: list[tuple[str, Any]] = [(Path(path).stem, repeated(LengthSet.load(path), 8)) for path in paths]
    if len(paths) > 1:
        two = paths[-2:]
        sets.append((" + ".join(Path(path).stem for path in two), [LengthSet.load(path) for path in two]))
    for name, given in sets:
        for length in (8192, 16384):
            for rows in (64, 128, 256, 512, 1024):
                plan = mixed(given, length, rows) if isinstance(given, list) else planned(given, length, rows, 1)
                vision = (
                    plan.loads.patches.reshape(-1)[: len(plan.loads.patches) // rows * rows].reshape(-1, rows).sum(1)
                )
                far = "-" if isinstance(given, list) else f"{furthest(given, plan, length):.2f}"
                shown = [against_random(plan, values, rows) for values in ("length", plan.text, plan.source, "vision")]
                print(
                    f"| {name} {length} | {rows} | {' | '.join('-' if np.isnan(r) else f'{r:.2f}' for r in shown)} | "
                    f"{100 * vision.std() / vision.mean():.1f} % | {trend(plan.loads, rows):+.3f} | "
                    f"{0.8 / np.sqrt(len(vision)):.2f} | {far} | {100 * worst(plan.loads, length, 8):.2f} / "
                    f"{100 * worst(plan.loads, length, 64):.2f} |",
                    flush=True,
                )


class Labelled(BareLengths):
    """One of several sources."""

    def __init__(self, lengths: LengthSet, length: int, source: int):
        super().__init__(lengths, length)
        self.label, self.source = f"source {source}", source

    def _samples(self, index: np.ndarray, epoch: int) -> Drawn:
        found = super()._samples(index, epoch)
        return replace(found, source=found.source + np.int32(self.source))


def mixed(sets: list[LengthSet], length: int, rows: int, windows: int = 6) -> Plan:
    """The planner on a mixture of sets, one sample of each in turn."""
    tables = [Labelled(one, length, number) for number, one in enumerate(sets)]
    settings = PlanSettings(length, rows, WINDOW // rows, CHUNK)
    planner = Planner(tables, lambda step: [1.0] * len(tables), settings, 0)
    found = [planner.window(number) for number in range(windows)]
    samples = Drawn.joined([window.samples for window in found])
    sizes = np.concatenate([np.diff(window.starts) for window in found])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    loads = Loads.of(samples.tokens, samples.patches, starts)
    pack = np.repeat(np.arange(len(sizes)), sizes)
    return Plan(samples.index, pack, loads, text=samples.patches == 0, source=samples.source == 1)


def against_random(plan: Plan, values: Any, rows: int) -> float:
    """Variance between steps of mean length, of vision or of a share of samples, in that of random orders of the rows."""
    held = np.bincount(plan.pack).astype(np.float64)
    whole = len(held) // rows * rows
    if values is None:
        return float("nan")
    if isinstance(values, str):
        top, bottom = (plan.loads.tokens, held) if values == "length" else (plan.loads.patches, np.ones(len(held)))
    else:
        top, bottom = np.bincount(plan.pack, values), held
    top, bottom = top[:whole].astype(np.float64), bottom[:whole]

    def variance(order: np.ndarray) -> float:
        return float(np.var(top[order].reshape(-1, rows).sum(1) / bottom[order].reshape(-1, rows).sum(1)))

    usual = np.mean([variance(np.random.default_rng(seed).permutation(whole)) for seed in range(RANDOM_PLANS)])
    return variance(np.arange(whole)) / usual if usual > 0 else float("nan")


def furthest(lengths: LengthSet, plan: Plan, length: int) -> float:
    """Most windows' worth of tokens between where a sample is drawn and where its row is trained."""
    order = draw_order(lengths, length)
    drawn = np.empty(len(lengths.tokens))
    drawn[order] = np.cumsum(lengths.tokens[order]) / (length * WINDOW)
    return float(np.abs(drawn[plan.sample] - plan.pack / WINDOW).max())
