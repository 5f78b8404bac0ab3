"""From units of work to shards: do what is missing, drop duplicates, count, cut.

Each step leaves what it made in the work folder, whole or not at all, and begins by looking what is there: killed at
any moment, the same call goes on. No step holds a list of all rows; the driver keeps one number per unit.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import UserError
from configs.ingest import StorageConfig
from configs.schema import BuildRecipe
from data_pipeline.ingest.cut import CutJob, count_units, slices, write_shard
from data_pipeline.ingest.dedup.run import HASHES, find_drops
from data_pipeline.ingest.progress import Progress
from data_pipeline.ingest.segments import Unit
from data_pipeline.ingest.tasks import Runner
from data_pipeline.ingest.unit_file import UnitTotals, read_unit, unit_path
from data_pipeline.ingest.units import UnitJob, close_fetchers, process_unit
from data_pipeline.shard import read_table
from data_pipeline.shard_table import ShardEntry
from data_pipeline.storage import configure, join, listdir, read_bytes

COUNTED_TOGETHER = 64
"""Units whose tables one task reads."""
CHECK_SECONDS = 10.0
"""Between two looks whether the build is still this driver's."""
DROPS_SPAN = 1_000_000
"""Input positions of one file of drops."""


@dataclass
class Assembled:
    """What a build made: shard entries in order, their statistics (JSON, to be small), rows by outcome."""

    entries: list[ShardEntry] = field(default_factory=list)
    statistics: list[str] = field(default_factory=list)
    rows: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Site:
    """Where a build works: on what, into what, beside which shards that are published already.

    `check` raises when the build is no longer this driver's.
    """

    recipe: BuildRecipe
    work: str
    published: tuple[str, ...]
    runner: Runner
    log: Progress
    check: Callable[[], None]


def assemble(site: Site, units: Iterable[Unit], count: int, rows: int, *, none_kept: bool = True) -> Assembled:
    """Make the shards of `count` units with `rows` rows.

    Args:
        none_kept: write a shard without samples where nothing is kept; else nothing at all.
    """
    _do_units(site, units, count, rows)
    site.check()
    drops = _drop(site, count)
    site.check()
    job = CutJob(site.recipe.storage, site.work, site.recipe.output, drops, DROPS_SPAN)
    kept, made = _count(site, job, count)
    if made.kept or none_kept:
        site.check()
        _cut(site, job, kept, made)
    return made


def _do_units(site: Site, units: Iterable[Unit], count: int, rows: int) -> None:
    """Do every unit that is not committed."""
    recipe, log = site.recipe, site.log
    done = committed(site.work, count)

    def missing() -> Iterator[tuple[int, tuple[Any, ...]]]:
        for unit in units:
            if done[unit.number]:
                log.skip(len(unit.positions))
            else:
                yield unit.number, (job, unit)

    with log.stage("read", rows, "row"), _scorers(site) as scorers:
        job = UnitJob(recipe, site.work, scorers, watched=site.runner.on_ray)
        # Half a core each: while one unit waits for its last servers, another one decodes.
        waits = recipe.source.type in ("table", "webdataset", "coco")
        try:
            checked = time.monotonic()
            for _, totals in site.runner.run(process_unit, missing(), cpus=0.5 if waits else 1.0):
                _note(log, totals)
                if time.monotonic() - checked > CHECK_SECONDS:
                    site.check()
                    checked = time.monotonic()
        finally:
            close_fetchers()


def _note(log: Progress, totals: UnitTotals) -> None:
    rows = totals.kept + totals.rejected.total()
    log.advance(rows, kept=totals.kept, rejected=totals.rejected, bytes=totals.bytes)


def committed(work: str, count: int) -> np.ndarray:
    """Which of `count` units are there: a flag each."""
    done, folder = np.zeros(count, bool), join(work, "units")
    for part in listdir(folder):
        for name in listdir(join(folder, part)):
            if name.endswith(".unit"):
                done[int(name.split(".")[0])] = True
    return done


class _scorers:
    """The pool of the recipe's models while units are done; None where it has none."""

    def __init__(self, site: Site):
        self.configs, self.on_ray = site.recipe.filters.scorers, site.runner.on_ray

    def __enter__(self) -> Any:
        if not self.configs:
            self.pool = None
            return None
        from data_pipeline.ingest.filters.scorers import Scorers

        self.pool = Scorers(self.configs, on_ray=self.on_ray)
        return self.pool

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.close()


def _drop(site: Site, count: int) -> str | None:
    """Find duplicates among the units, and against what is published. Returns the folder that says what is dropped."""
    recipe = site.recipe
    if recipe.dedup.exact == "none" and not recipe.dedup.near:
        return None
    folder = join(site.work, "drops")
    chunks: list[tuple[str, Any]] = [("published", name) for name in site.published]
    chunks += [("units", part) for part in _ranges(count)]
    load = partial(load_hashes, recipe.storage, site.work, recipe.output)
    with site.log.stage("dedup", len(chunks), "chunk"):
        find_drops(chunks, load, recipe.dedup, folder, DROPS_SPAN, on_ray=site.runner.on_ray)
        site.log.advance(len(chunks))
    return folder


def load_hashes(storage: StorageConfig, work: str, output: str, chunk: tuple[str, Any]) -> pa.Table:
    """What duplicates of the kept rows of a chunk are recognised by."""
    configure(storage)
    kind, what = chunk
    if kind == "published":
        table = read_table(read_bytes(join(output, f"{what}.outcomes.parquet")))
        table = table.filter(pc.equal(table["outcome"], "kept"))
    else:
        tables = [read_unit(unit_path(work, number)) for number in what]
        table = pa.concat_tables([t.filter(pc.is_null(t["stage"])) for t in tables])
    published = pa.array(np.full(table.num_rows, kind == "published"), pa.bool_())
    return pa.table([table["position"], table["exact"], _near(table["near"], f"{output}, {what}"), published], HASHES)


def _near(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    try:
        return column.cast(HASHES.field("near").type)
    except pa.ArrowInvalid:
        raise UserError(
            f"{where} holds perceptual hashes of an older version, which cannot be compared with new ones: "
            "build the dataset anew, into another output"
        ) from None


def _ranges(count: int) -> list[range]:
    return [range(start, min(count, start + COUNTED_TOGETHER)) for start in range(0, count, COUNTED_TOGETHER)]


def _count(site: Site, job: CutJob, count: int) -> tuple[np.ndarray, Assembled]:
    kept, made = np.zeros(count, np.int64), Assembled()
    with site.log.stage("count", count, "unit"):
        for numbers, (counts, rejected) in site.runner.run(
            count_units, ((part, (job, part)) for part in _ranges(count))
        ):
            kept[numbers.start : numbers.stop] = counts
            made.rejected.update(rejected)
            site.log.advance(len(numbers))
    made.kept = int(kept.sum())
    made.rows = made.kept + made.rejected.total()
    return kept, made


def _cut(site: Site, job: CutJob, kept: np.ndarray, made: Assembled) -> None:
    """Write all shards; their entries come in any order and are put in theirs."""
    first, size = len(site.published), site.recipe.shard_size
    shards = max(1, -(-made.kept // size))
    entries: list[ShardEntry | None] = [None] * shards
    statistics = [""] * shards
    with site.log.stage("cut", shards, "shard"):
        jobs = ((part.number - first, (job, part)) for part in slices(kept, size, first))
        for number, (entry, said) in site.runner.run(write_shard, jobs):
            entries[number], statistics[number] = entry, json.dumps(said)
            site.log.advance(1)
    made.entries, made.statistics = [entry for entry in entries if entry is not None], statistics
    if len(made.entries) != shards or sum(entry.rows for entry in made.entries) != made.rows:
        raise AssertionError(f"{made.rows} rows and {shards} shards expected, {len(made.entries)} shards came out")
