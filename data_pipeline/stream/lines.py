"""Row by row what a rank would train on, without training: the lines of `looksay data stream`."""

from collections.abc import Iterator
from typing import Any

from configs.schema import TrainRecipe
from data_pipeline.stream.batch import RowInfo
from data_pipeline.stream.loader import Loader
from data_pipeline.stream.plan.planner import Planner
from data_pipeline.stream.plan.rows import Drawn
from data_pipeline.stream.tables import open_data

EMPTY: dict[str, Any] = {"samples": [], "tokens": 0, "visual": 0, "patches": 0, "labels": 0}


def stream_rows(
    recipe: TrainRecipe, rank: int, of: int, from_step: int, steps: int, decode: bool = True, workers: int | None = None
) -> Iterator[dict[str, Any]]:
    """One line a row that rank `rank` of `of` would train on, dummies included; bytes are read only with `decode`."""
    lines = _decoded(recipe, rank, of, range(from_step, from_step + steps), workers)
    return lines if decode else _planned(recipe, rank, of, range(from_step, from_step + steps))


def _places(recipe: TrainRecipe, rank: int, of: int) -> Iterator[tuple[int, int]]:
    """(micro-step, row) of each row of a step on this rank; -1 for a dummy."""
    rows, each = recipe.data.packing.rows_per_step, recipe.parallel.rows_per_rank
    for micro in range(-(-rows // (of * each))):
        first = (micro * of + rank) * each
        yield from ((micro, row if row < rows else -1) for row in range(first, first + each))


def _planned(recipe: TrainRecipe, rank: int, of: int, steps: range) -> Iterator[dict[str, Any]]:
    planner = open_data(recipe).planner
    for step in steps:
        planned = planner.step(step)
        for micro, row in _places(recipe, rank, of):
            what = _row(planner, planned.row(row)) if row >= 0 else EMPTY
            yield {
                "step": step,
                "micro": micro,
                "rank": rank,
                "row": row,
                **what,
                "step_labels": int(planned.denominator),
            }


def _row(planner: Planner, row: Drawn) -> dict[str, Any]:
    columns = (row.source.tolist(), row.epoch.tolist(), row.shard.tolist(), row.key.tolist())
    return {
        "samples": [
            {
                "source": planner.tables[source].label,
                "epoch": epoch,
                "shard": planner.tables[source].shard_name(shard),
                "key": key.decode(),
            }
            for source, epoch, shard, key in zip(*columns, strict=True)
        ],
        **{name: int(getattr(row, name).sum()) for name in ("tokens", "visual", "patches", "labels")},
    }


def _decoded(recipe: TrainRecipe, rank: int, of: int, steps: range, workers: int | None) -> Iterator[dict[str, Any]]:
    loader = Loader(recipe, dp_rank=rank, dp_size=of, workers=workers)
    try:
        for step in steps:
            batches = loader.step(step)
            infos = [(info, batch.denominator) for batch in batches for info in batch.rows]
            for (micro, row), (info, labels) in zip(_places(recipe, rank, of), infos, strict=True):
                assert row == info.row, "the loader and the rule of rows disagree"
                yield {
                    "step": step,
                    "micro": micro,
                    "rank": rank,
                    "row": row,
                    **_read(info),
                    "step_labels": int(labels),
                }
    finally:
        loader.close()


def _read(info: RowInfo) -> dict[str, Any]:
    counts = {name: getattr(info, name) for name in ("tokens", "visual", "patches", "labels")}
    return {"samples": list(info.samples), **counts}
