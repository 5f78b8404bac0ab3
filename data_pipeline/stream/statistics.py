"""What a recipe's plan looks like: packing statistics, and the rows that a rank would train on. Reads no pixels unless asked."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.schema import TrainRecipe
from data_pipeline.stream.loader import Loader
from data_pipeline.stream.tables import open_data


def pack_statistics(recipe: TrainRecipe, steps: int | None = None) -> dict[str, Any]:
    """Fill, rows by visual tokens, and what padding would cost instead, over the plan's first window(s).

    `padded_fill` is what the same samples fill when each has a row of its own (cut at the longest sample of a batch of
    as many samples as a row holds on average): what a trainer without packing does.
    """
    data = open_data(recipe)
    packing = recipe.data.packing
    count = min(steps or packing.window_steps, recipe.stage.steps)
    rows = [row for step in range(count) for row in data.planner.step(step).rows]
    tokens = np.array([row.tokens for row in rows])
    lengths = [int(data.planner.tables[s].tokens[i]) for row in rows for s, _, i in row.samples]
    visual = [
        sum(int(data.planner.tables[s].patches[i]) for s, _, i in row.samples) // data.geometry.merge**2 for row in rows
    ]
    pictures = Counter(int(data.planner.tables[s].images[i]) for row in rows for s, _, i in row.samples)
    batch = max(1, round(len(lengths) / len(rows)))
    padded = [max(lengths[i : i + batch]) * len(lengths[i : i + batch]) for i in range(0, len(lengths), batch)]
    return {
        "length": packing.length,
        "rows": len(rows),
        "samples": len(lengths),
        "fill": float(tokens.sum() / (len(rows) * packing.length)),
        "lowest_fill": float(tokens.min() / packing.length),
        "samples_per_row": len(lengths) / len(rows),
        "padded_fill": float(sum(lengths) / sum(padded)),
        "longest_sample": max(lengths),
        "too_long": dict(zip(data.labels, data.planner.too_long, strict=True)),
        "unreadable": dict(zip(data.labels, data.planner.unreadable, strict=True)),
        "visual_tokens_per_row": {str(k): v for k, v in sorted(Counter(visual).items())},
        "pictures_per_sample": {str(k): v for k, v in sorted(pictures.items())},
        "rows_to_scale": [[int(data.planner.tables[s].tokens[i]) for s, _, i in row.samples] for row in rows[:12]],
    }


def pack_table(statistics: dict[str, Any]) -> str:
    """Statistics as lines for a person."""
    visual = [int(k) for k in statistics["visual_tokens_per_row"]]
    lines = [
        f"rows of {statistics['length']}: {statistics['rows']}, {statistics['samples_per_row']:.1f} samples each",
        f"fill {statistics['fill']:.1%} (lowest row {statistics['lowest_fill']:.1%}); padded batches would fill {statistics['padded_fill']:.1%}",
        f"visual tokens a row: {min(visual)} to {max(visual)}, {len(visual)} distinct values",
        f"pictures a sample: {statistics['pictures_per_sample']}",
    ]
    lines += [
        f"source {name}: {count} samples are longer than a row and never drawn"
        for name, count in statistics["too_long"].items()
        if count
    ]
    lines += [
        f"source {name}: the text of {count} samples is unreadable, they are never drawn; run `looksay data verify`"
        for name, count in statistics["unreadable"].items()
        if count
    ]
    return "\n".join(lines)


def stream_rows(
    recipe: TrainRecipe, rank: int, of: int, from_step: int, steps: int, decode: bool = True
) -> Iterator[dict[str, Any]]:
    """One line a row that rank `rank` of `of` would train on, dummies included."""
    loader = Loader(recipe, dp_rank=rank, dp_size=of)
    try:
        for step in range(from_step, from_step + steps):
            planned = loader.planner.step(step)
            batches = loader.build(step) if decode else None
            for micro in range(loader.micro_steps):
                first = (micro * of + rank) * loader.rows_per_rank
                for offset in range(loader.rows_per_rank):
                    number = first + offset
                    line: dict[str, Any] = {
                        "step": step,
                        "micro": micro,
                        "rank": rank,
                        "row": number if number < len(planned.rows) else -1,
                    }
                    if batches is not None:
                        info = batches[micro].rows[offset]
                        line |= {
                            "samples": list(info.samples),
                            "tokens": info.tokens,
                            "visual": info.visual,
                            "patches": info.patches,
                            "labels": info.labels,
                        }
                    else:
                        line |= _planned_row(loader, planned.rows[number] if number < len(planned.rows) else None)
                    yield {**line, "step_labels": int(planned.denominator)}
    finally:
        loader.close()


def _planned_row(loader: Loader, row: Any) -> dict[str, Any]:
    if row is None:
        return {"samples": [], "tokens": 0, "visual": 0, "patches": 0, "labels": 0}
    samples = []
    for source, epoch, index in row.samples:
        dataset = loader.datasets[source]
        samples.append(
            {
                "source": loader.labels[source],
                "epoch": epoch,
                "shard": dataset.shard_of(index),
                "key": dataset.keys[index],
            }
        )
    tables = loader.planner.tables
    return {
        "samples": samples,
        "tokens": row.tokens,
        "visual": row.patches // loader.geometry.merge**2,
        "patches": row.patches,
        "labels": sum(int(tables[s].labels[i]) for s, _, i in row.samples),
    }
