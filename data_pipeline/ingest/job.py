"""A build: records -> units on Ray -> ordered cut -> manifest, which comes last.

Killed at any moment, the same command continues: committed units are not done again, and the result is
byte-identical to an undisturbed build, whatever the number of workers. A finished dataset can be extended by new
input rows, and the rows that could not be fetched can be tried again: both go to new shards behind the old ones.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from configs.errors import UserError
from configs.ingest import RayConfig
from configs.schema import BuildRecipe
from data_pipeline.ingest import stock
from data_pipeline.ingest.again import Failed, extended, relisted
from data_pipeline.ingest.assemble import Assembled, Site, assemble
from data_pipeline.ingest.filters.rules import Filters
from data_pipeline.ingest.folder import (
    Begun,
    begin,
    identity_of,
    look_at,
    new_start,
    recipe_changes,
    refusal,
    still_ours,
    tidy,
)
from data_pipeline.ingest.progress import Progress
from data_pipeline.ingest.publish import kept_listing, publish, said_of
from data_pipeline.ingest.ray_local import local_ray
from data_pipeline.ingest.rows_in import inputs_of, whole_paths
from data_pipeline.ingest.segments import Segment, Units, segments_of
from data_pipeline.ingest.sources.inputs import Found, describe, find_inputs
from data_pipeline.ingest.tasks import InProcess, OnRay, Runner
from data_pipeline.manifest import Generation, Manifest
from data_pipeline.storage import configure, exists, is_remote, join


def build(recipe: BuildRecipe, *, progress: bool = True, extend: bool = False, retry_failed: bool = False) -> Manifest:
    """Make the dataset of a recipe, or say that it is there already (`manifest.reused`).

    Args:
        extend: take new input rows into a finished dataset, as new shards.
        retry_failed: try the rows again that could not be fetched; what they give goes to new shards.
    Raises:
        UserError: bad source, or an output folder that holds something else.
    """
    configure(recipe.storage)
    manifest, begun = look_at(recipe.output)
    lists = Filters(recipe.filters, recipe.text).lists  # says what is wrong with rules before anything starts
    if manifest is None and (extend or retry_failed):
        raise UserError(
            f"{recipe.output} holds no finished dataset: build it first, without --extend or --retry-failed"
        )
    found = find_inputs(recipe.source)
    if manifest is not None and not (extend or retry_failed):
        return _reused(recipe, manifest, begun, found, lists)
    with Progress(recipe.output, recipe.name, bar=progress, held=True) as log, _runner(recipe.ray, log) as runner:
        if manifest is None:
            return _first(recipe, begun, found, runner, log, lists)
        if other := _other_lists(manifest, lists):
            raise refusal(recipe.output, other, extendable=False)
        if retry_failed:
            return _retry(recipe, manifest, found, runner, log)
        return _extend(recipe, manifest, found, runner, log)


def _other_lists(manifest: Manifest, lists: dict[str, str]) -> list[str]:
    """Files of the filters whose content is not what the dataset was built with."""
    old = manifest.generations[0].lists if manifest.generations else {}
    return [f"the file of filters.{name} has changed" for name in lists if old.get(name) != lists[name]]


@contextlib.contextmanager
def _runner(config: RayConfig, log: Progress) -> Iterator[Runner]:
    """What runs the tasks: Ray, or with 0 workers this process."""
    if config.workers == 0:
        yield InProcess()
        return
    with local_ray(config):
        yield OnRay(config, log.note, lambda: log.advance(0))


def _reused(
    recipe: BuildRecipe, manifest: Manifest, begun: Begun | None, found: Sequence[Found], lists: dict[str, str]
) -> Manifest:
    """The finished dataset, where recipe and inputs are the same; else a refusal that says what is not."""
    changed = recipe_changes(manifest.recipe, recipe) or _other_lists(manifest, lists)
    grown: list[str] = []
    if not changed:
        before = stock.latest(stock.read_segments(join(recipe.output, stock.NAME)))
        with stock.scratch() as folder:
            now = inputs_of(recipe, found, folder, InProcess(), list(before.values()), None)
        grown = stock.changes(before, now)
    if changed or grown:
        raise refusal(recipe.output, [*changed, *grown], extendable=not changed)
    if begun is None or begun.kind == "build":  # what another start of a retry or extension needs stays
        tidy(recipe.output)
    return replace(manifest, reused=True)


def _first(
    recipe: BuildRecipe,
    begun: Begun | None,
    found: Sequence[Found],
    runner: Runner,
    log: Progress,
    lists: dict[str, str],
) -> Manifest:
    """The first build into a folder, from nothing or from where it was killed."""
    output, rows = recipe.output, join(join(recipe.output, "work"), "rows")
    said = said_of(recipe)
    if begun is not None and (changed := recipe_changes(begun.recipe, recipe)):
        raise refusal(output, changed, extendable=False)
    start = new_start()
    begin(output, Begun("build", begun.fingerprint if begun else "", said, start))
    log.release()
    noted = join(join(output, "work"), stock.NAME)
    before = stock.latest(stock.read_segments(noted))
    inputs = inputs_of(recipe, found, rows, runner, list(before.values()), log)
    segments = segments_of(inputs)
    if not sum(segment.rows for segment in segments):
        raise UserError(f"the source {describe(recipe.source)} has no rows: check its path and filters")
    fingerprint = stock.fingerprint(identity_of(recipe) + json.dumps(lists, sort_keys=True), inputs)
    if begun is not None and begun.fingerprint not in ("", fingerprint):
        changed = (before and stock.changes(before, inputs)) or [
            "the input rows or the lists of its filters are not the same"
        ]
        raise refusal(output, changed, extendable=False)
    begin(output, Begun("build", fingerprint, said, start))
    stock.write_segments(noted, [(1, segment) for segment in segments])
    made = _assemble(recipe, runner, log, fingerprint, segments, start)
    if not made.kept:
        raise UserError(
            f"all {made.rows} rows of {recipe.name} were rejected: {dict(sorted(made.rejected.items()))}; "
            f"see {output}/*.outcomes.parquet"
        )
    generation = Generation("build", len(made.entries), made.rows, fingerprint, lists=lists)
    kept_segments = [(1, kept_listing(recipe, segment)) for segment in segments]
    return publish(recipe, None, generation, made, kept_segments, start)


def _assemble(
    recipe: BuildRecipe, runner: Runner, log: Progress, fingerprint: str, segments: Sequence[Segment], start: str
) -> Assembled:
    units = Units(segments, recipe.unit_size)
    work = _work(recipe.output, 1, fingerprint)
    site = Site(whole_paths(recipe), work, (), runner, log, _check(recipe, start))
    rows = sum(segment.rows for segment in segments)
    return assemble(site, (units[number] for number in range(len(units))), len(units), rows)


def _check(recipe: BuildRecipe, start: str) -> Callable[[], None]:
    return partial(still_ours, recipe.output, start)


def _work(output: str, generation: int, fingerprint: str) -> str:
    """Where a build keeps what is unfinished: a late task of another build never writes into it."""
    output = output if is_remote(output) else os.path.abspath(output)
    return join(join(output, "work"), f"{generation:03d}-{fingerprint[:16]}")


def _extend(recipe: BuildRecipe, manifest: Manifest, found: Sequence[Found], runner: Runner, log: Progress) -> Manifest:
    """Take in rows that are new since the last build; everything else must be as it was."""
    _only_plain(recipe, "--extend")
    changed = [c for c in recipe_changes(manifest.recipe, recipe) if not c.startswith("source.path")]
    if changed:
        raise refusal(recipe.output, changed, extendable=False)
    old = stock.read_segments(join(recipe.output, stock.NAME))
    rows, number = join(join(recipe.output, "work"), "rows"), manifest.version + 1
    start = new_start()
    begin(recipe.output, Begun("extend", "", said_of(recipe), start))
    log.release()
    inputs = inputs_of(recipe, found, rows, runner, list(stock.latest(old).values()), log)
    news = extended(recipe.output, old, inputs, rows)
    if not news:
        tidy(recipe.output)
        return replace(manifest, reused=True)
    new_inputs = [segment.item for segment in news]
    fingerprint = stock.fingerprint(manifest.fingerprint + identity_of(recipe), new_inputs)
    begin(recipe.output, Begun("extend", fingerprint, said_of(recipe), start))
    units = Units(news, recipe.unit_size)
    published = tuple(manifest.shards.names)
    site = Site(
        whole_paths(recipe), _work(recipe.output, number, fingerprint), published, runner, log, _check(recipe, start)
    )
    count = sum(segment.rows for segment in news)
    made = assemble(site, (units[n] for n in range(len(units))), len(units), count)
    generation = Generation("extend", len(made.entries), made.rows, fingerprint)
    kept = [*old, *((number, kept_listing(recipe, segment)) for segment in news)]
    return publish(recipe, manifest, generation, made, kept, start)


def _retry(recipe: BuildRecipe, manifest: Manifest, found: Sequence[Found], runner: Runner, log: Progress) -> Manifest:
    """Try again what could not be fetched. How it is fetched may be changed, what is built may not."""
    _only_plain(recipe, "--retry-failed")
    changed = recipe_changes(manifest.recipe, recipe, ("output", "name", "ray", "storage", "fetch"))
    if changed:
        raise refusal(recipe.output, changed, extendable=False)
    old = stock.read_segments(join(recipe.output, stock.NAME))
    failed = Failed(recipe.output, manifest)
    if not failed.count:
        return replace(manifest, reused=True)
    number = manifest.version + 1
    fetch = json.dumps(recipe.fetch.model_dump(mode="json"), sort_keys=True)
    fingerprint = hashlib.sha256(f"{manifest.fingerprint}\0retry\0{number}\0{fetch}".encode()).hexdigest()
    start = new_start()
    begin(recipe.output, Begun("retry", fingerprint, said_of(recipe), start))
    log.release()
    rows = join(join(recipe.output, "work"), "rows")
    inputs = inputs_of(recipe, found, rows, runner, list(stock.latest(old).values()), log)
    units = Units(relisted(recipe.output, old, inputs), recipe.unit_size)
    count = sum(1 for _ in units.restricted(failed.positions()))
    published = tuple(manifest.shards.names)
    site = Site(
        whole_paths(recipe), _work(recipe.output, number, fingerprint), published, runner, log, _check(recipe, start)
    )
    made = assemble(site, units.restricted(failed.positions()), count, failed.count, none_kept=False)
    if not made.kept:
        log.note("nothing", rows=made.rows)
        tidy(recipe.output)
        return replace(manifest, reused=True)
    generation = Generation("retry", len(made.entries), made.rows, fingerprint, dict(sorted(failed.reasons.items())))
    return publish(recipe, manifest, generation, made, old, start)


def _only_plain(recipe: BuildRecipe, option: str) -> None:
    if recipe.compose is not None:
        raise UserError(
            f"{option} is not for recipes with `compose`: {recipe.name} draws its samples anew from all rows; "
            "build into another folder"
        )
    if not exists(join(recipe.output, stock.NAME)):
        raise UserError(
            f"{recipe.output} does not say which rows it holds ({stock.NAME} is missing; an older version built it): "
            f"build it anew before {option}"
        )
