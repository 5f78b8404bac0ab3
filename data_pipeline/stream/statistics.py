"""What a recipe's plan looks like: packing statistics for people, from the plan alone. Reads no pixels."""

from collections import Counter
from typing import Any

import numpy as np

from configs.schema import TrainRecipe
from data_pipeline.stream.counts.lengths import TOO_LONG, UNREADABLE
from data_pipeline.stream.plan.draw import Lengths
from data_pipeline.stream.plan.rows import Drawn
from data_pipeline.stream.plan.score import Loads, balance, balance_lines, fill
from data_pipeline.stream.tables import OpenData, open_data

RANKS = (1, 2, 4, 8, 16, 32, 64)
CENSUS = 2_000_000
"""So many samples of a source are looked at for those that are never drawn."""
SHOWN_ROWS = 12


def pack_statistics(recipe: TrainRecipe, steps: int | None = None) -> dict[str, Any]:
    """Fill, balance, rows by visual tokens, and what padding would cost instead, over the plan's first window(s).

    `padded_fill` is what the same samples fill when each has a row of its own (cut at the longest sample of a batch of
    as many samples as a row holds on average): what a trainer without packing does.
    """
    data = open_data(recipe)
    packing = recipe.data.packing
    count = min(steps or packing.window_steps, recipe.stage.steps)
    planned = [data.planner.step(step) for step in range(count)]
    rows = [row for step in planned for row in step.rows()]
    samples = Drawn.joined([step.samples for step in planned])
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    loads = Loads.of(samples.tokens, samples.patches, starts)
    lengths, visual = samples.tokens.tolist(), Counter(int(row.visual.sum()) for row in rows)
    batch = max(1, round(len(lengths) / len(rows)))
    padded = [max(lengths[i : i + batch]) * len(lengths[i : i + batch]) for i in range(0, len(lengths), batch)]
    never = [census(table) for table in data.planner.tables]
    return {
        "length": packing.length,
        "rows": len(rows),
        "samples": len(lengths),
        "fill": fill(loads, packing.length),
        "lowest_fill": float(loads.tokens.min() / packing.length),
        "samples_per_row": len(lengths) / len(rows),
        "padded_fill": float(sum(lengths) / sum(padded)),
        "longest_sample": max(lengths),
        "balance": {str(n): balance(loads, packing.length, n) for n in RANKS if n <= len(rows)},
        "shares": _shares(data, samples),
        "epochs": {
            label: int(samples.epoch[samples.source == n].max(initial=0)) for n, label in enumerate(data.labels)
        },
        "steps_per_epoch": _steps_per_epoch(data, samples, count),
        "too_long": {label: found["too_long"] for label, found in zip(data.labels, never, strict=True)},
        "shortened": {label: found["shortened"] for label, found in zip(data.labels, never, strict=True)},
        "unreadable": {label: found["unreadable"] for label, found in zip(data.labels, never, strict=True)},
        "visual_tokens_per_row": {str(k): v for k, v in sorted(visual.items())},
        "pictures_per_sample": {str(k): v for k, v in sorted(Counter(samples.images.tolist()).items())},
        "rows_to_scale": [row.tokens.tolist() for row in rows[:SHOWN_ROWS]],
        "visual_to_scale": [row.visual.tolist() for row in rows[:SHOWN_ROWS]],
    }


def census(table: Lengths, most: int = CENSUS) -> dict[str, int]:
    """Samples of a source that are never drawn, or only by the policy for long ones, among its first `most`."""
    found = {"samples": 0, "too_long": 0, "unreadable": 0, "shortened": 0}
    before = getattr(table, "shortened", 0)
    for shard, size in enumerate(np.diff(table.starts).tolist()):
        if not size or found["samples"] >= most:
            continue
        tokens = table.read([(shard, 0, size)]).tokens
        found["samples"] += size
        found["too_long"] += int((tokens == TOO_LONG).sum())
        found["unreadable"] += int((tokens == UNREADABLE).sum())
    found["shortened"] = getattr(table, "shortened", 0) - before
    return found


def _shares(data: OpenData, samples: Drawn) -> dict[str, dict[str, float]]:
    total = float(samples.tokens.sum())
    out = {}
    for number, label in enumerate(data.labels):
        own = samples.source == number
        out[label] = {"samples": float(own.mean()), "tokens": float(samples.tokens[own].sum() / total)}
    return out


def _steps_per_epoch(data: OpenData, samples: Drawn, steps: int) -> dict[str, float]:
    """How many optimizer steps pass over a source once, at the rate of these steps."""
    drawn = np.bincount(samples.source, minlength=len(data.labels))
    return {
        label: float(len(dataset) * steps / n) if n else float("inf")
        for label, dataset, n in zip(data.labels, data.datasets, drawn.tolist(), strict=True)
    }


def pack_table(statistics: dict[str, Any]) -> str:
    """Statistics as lines for a person."""
    visual = [int(k) for k in statistics["visual_tokens_per_row"]]
    lines = [
        f"rows of {statistics['length']}: {statistics['rows']}, {statistics['samples_per_row']:.1f} samples each",
        f"fill {statistics['fill']:.2%} (lowest row {statistics['lowest_fill']:.1%}); padded batches would fill {statistics['padded_fill']:.1%}",
        f"visual tokens a row: {min(visual)} to {max(visual)}, {len(visual)} distinct values",
        f"pictures a sample: {statistics['pictures_per_sample']}",
        *balance_lines(statistics["balance"]),
    ]
    for name, share in statistics["shares"].items():
        lines.append(
            f"source {name}: {share['samples']:.1%} of samples, {share['tokens']:.1%} of tokens, "
            f"an epoch in {statistics['steps_per_epoch'][name]:.1f} steps"
        )
    lines += [
        f"source {name}: {count} samples are longer than a row and never drawn"
        for name, count in statistics["too_long"].items()
        if count
    ]
    lines += [
        f"source {name}: {count} samples are shortened to fit a row (data.long_samples)"
        for name, count in statistics["shortened"].items()
        if count
    ]
    lines += [
        f"source {name}: the text of {count} samples is unreadable, they are never drawn; run `looksay data verify`"
        for name, count in statistics["unreadable"].items()
        if count
    ]
    lines += ["rows to scale (# visual, - text, . empty):", *picture(statistics)]
    return "\n".join(lines)


def picture(statistics: dict[str, Any], width: int = 100) -> list[str]:
    """Rows as bars of `width` letters, a sample after `|`."""
    scale = width / statistics["length"]
    bars = []
    for tokens, visual in zip(statistics["rows_to_scale"], statistics["visual_to_scale"], strict=True):
        bar, position = "", 0
        for count, seen in zip(tokens, visual, strict=True):
            middle, end = (round((position + part) * scale) for part in (seen, count))
            start = len(bar)
            bar += ("|" + "#" * max(0, middle - start - 1))[: max(0, end - start)]
            bar += "-" * max(0, end - len(bar))
            position += count
        bars.append(bar.ljust(width, "."))
    return bars
