"""The rows that go into a build: all inputs of its source, or the samples composed of them."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from configs.schema import BuildRecipe
from data_pipeline.ingest import stock
from data_pipeline.ingest.compose import compose
from data_pipeline.ingest.filters.rules import Filters
from data_pipeline.ingest.progress import Progress
from data_pipeline.ingest.sources.inputs import Found, Input, anchored, find_inputs
from data_pipeline.ingest.sources.listing import list_records
from data_pipeline.ingest.sources.spool import SPOOL_GROUP, write_spool
from data_pipeline.ingest.tasks import InProcess, Runner
from data_pipeline.storage import configure, is_remote, join


def inputs_of(
    recipe: BuildRecipe,
    found: Sequence[Found],
    folder: str,
    runner: Runner,
    known: Sequence[Input],
    log: Progress | None,
) -> list[Input]:
    """The inputs of the source, or the one that composed records are."""
    source = anchored(recipe.source)
    folder = folder if is_remote(folder) else os.path.abspath(folder)
    if recipe.compose is not None:
        records = compose(list_records(source), recipe.compose)
        return [_composed(records, found, join(folder, "composed.parquet"))]
    if log is None:
        return stock.take_stock(source, found, folder, recipe.storage, runner, known, lambda n: None, counted=True)
    with log.stage("list", len(found), "input"):
        return stock.take_stock(source, found, folder, recipe.storage, runner, known, log.advance)


def _composed(records: Sequence[Any], found: Sequence[Found], spool: str) -> Input:
    sha = hashlib.sha256()
    for record in records:
        places = [(ref.path.rsplit("/", 1)[-1], ref.row, ref.column, ref.canvas) for ref in record.images]
        turns = [(m.role, m.content) for m in record.messages or ()]
        sha.update(json.dumps([places, record.text, turns, str(record.problem)]).encode())
    for one in found:
        sha.update(f"{one.name}\0{one.size}\0".encode())
    write_spool(spool, iter(records), SPOOL_GROUP)
    composed = Found(path=spool, name="composed", kind="spool", size=0, stamp="")
    return Input(composed, len(records), sha.hexdigest(), spool)


def count_rows(recipe: BuildRecipe) -> int:
    """Input rows of a recipe; writes nothing that stays."""
    configure(recipe.storage)
    Filters(recipe.filters, recipe.text)
    with stock.scratch() as folder:
        return sum(item.rows for item in inputs_of(recipe, find_inputs(recipe.source), folder, InProcess(), [], None))


def whole_paths(recipe: BuildRecipe) -> BuildRecipe:
    """The recipe with whole paths: workers do not stand in our working folder."""

    def whole(path: str | None) -> str | None:
        return path if path is None or is_remote(path) else os.path.abspath(path)

    files = {name: whole(getattr(recipe.filters, name)) for name in ("domains", "hashes", "words")}
    parts = {
        "source": anchored(recipe.source),
        "output": whole(recipe.output),
        "filters": recipe.filters.model_copy(update=files),
        "fetch": recipe.fetch.model_copy(update={"ca_bundle": whole(recipe.fetch.ca_bundle)}),
        "storage": recipe.storage.model_copy(update={"ca_bundle": whole(recipe.storage.ca_bundle)}),
    }
    return recipe.model_copy(update=parts)
