"""What describes a dataset, written when its shards are there; the manifest last."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from configs.ingest import RayConfig
from configs.load import dump_recipe
from configs.schema import BuildRecipe
from data_pipeline.ingest import stock
from data_pipeline.ingest.assemble import Assembled
from data_pipeline.ingest.folder import still_ours, tidy
from data_pipeline.ingest.segments import Segment
from data_pipeline.ingest.statistics import read_totals, shard_statistics, write_statistics
from data_pipeline.manifest import Generation, Manifest, write_manifest
from data_pipeline.shard import read_table
from data_pipeline.shard_table import ShardTable
from data_pipeline.storage import exists, join, put, read_bytes


def publish(
    recipe: BuildRecipe,
    old: Manifest | None,
    generation: Generation,
    made: Assembled,
    segments: Sequence[tuple[int, Segment]],
    start: str,
) -> Manifest:
    """Write what describes the dataset; the manifest last, then nothing unfinished is left."""
    output = recipe.output
    superseded = Counter(generation.superseded)
    for earlier in old.generations if old else ():
        superseded.update(earlier.superseded)
    write_statistics(output, _statistics(output, old, made), superseded)
    pictures = (read_totals(output) or {}).get("samples_by_pictures", {})
    put(join(output, "recipe.yaml"), dump_recipe(recipe.model_copy(update={"ray": RayConfig()})).encode())
    stock.write_segments(join(output, stock.NAME), segments)
    rejected = Counter(old.totals["rejected"] if old else {})
    rejected.subtract(generation.superseded)
    rejected.update(made.rejected)
    kept = made.kept + (old.totals["kept"] if old else 0)
    said = {name: count for name, count in sorted(rejected.items()) if count}
    manifest = Manifest(
        recipe.name,
        generation.fingerprint,
        said_of(recipe),
        ShardTable([*(old.shards if old else ()), *made.entries]),
        {
            "rows": kept + sum(said.values()),
            "kept": kept,
            "rejected": said,
            "pictures_per_sample": pictures,
            "bytes": sum(entry.bytes for entry in made.entries) + (old.totals["bytes"] if old else 0),
        },
        generations=(*(old.generations if old else ()), generation),
        files=_described(output),
    )
    still_ours(output, start)
    write_manifest(output, manifest)
    still_ours(output, start)
    tidy(output)
    return manifest


def _statistics(output: str, old: Manifest | None, made: Assembled) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each shard holds, those of earlier builds read again."""
    for entry in old.shards if old else ():
        index, outcomes = (join(output, f"{entry.name}.{kind}.parquet") for kind in ("index", "outcomes"))
        yield entry.name, shard_statistics(read_table(read_bytes(index)), read_table(read_bytes(outcomes)))
    for entry, said in zip(made.entries, made.statistics, strict=True):
        yield entry.name, json.loads(said)


def _described(output: str) -> dict[str, str]:
    """SHA-256 of the files beside the shards."""
    names = ("recipe.yaml", stock.NAME, stock.LISTING, "statistics.json", "statistics.parquet")
    there = [name for name in names if exists(join(output, name))]
    return {name: hashlib.sha256(read_bytes(join(output, name))).hexdigest() for name in there}


def said_of(recipe: BuildRecipe) -> dict[str, Any]:
    """The recipe as the dataset tells it: who did the work, and on how many machines, is no part of it."""
    return recipe.model_dump(mode="json", exclude={"ray"})


def kept_listing(recipe: BuildRecipe, segment: Segment) -> Segment:
    """A folder's listing goes with the dataset: the folder may change, positions must not."""
    item = segment.item
    if item.found.kind != "folder" or item.spool is None:
        return replace(segment, item=replace(item, spool=None))
    kept = join(recipe.output, stock.LISTING)
    if item.spool != stock.LISTING:
        put(kept, read_bytes(item.spool))
    return replace(segment, item=replace(item, spool=stock.LISTING))
