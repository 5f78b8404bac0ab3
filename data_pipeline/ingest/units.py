"""One unit of work: read its rows, fetch, decode, filter, and commit what became of each.

```
records --filters--> references --fetch--> bytes --filters, decode--> pictures --predicates, scorers--> unit file
```

A function of recipe and rows (and of what the servers answer): a unit that is started twice commits once.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from configs.ingest import FetchConfig, ImagesConfig
from configs.schema import BuildRecipe
from data_pipeline.ingest.careful import Careful
from data_pipeline.ingest.fetch.fetcher import Fetcher
from data_pipeline.ingest.making import Made, Making, pixels_of
from data_pipeline.ingest.segments import Unit
from data_pipeline.ingest.unit_file import UnitTotals, UnitWriter, read_unit, totals_of, unit_path
from data_pipeline.ingest.watchdog import Watchdog
from data_pipeline.sample import Reject
from data_pipeline.storage import configure, exists


@dataclass(frozen=True)
class UnitJob:
    """What all units of a build share.

    `scorers` reaches the pool of models, where the recipe has some. `watched`: this process may end itself when a
    picture takes too long or too much, for somebody will start the unit again.
    """

    recipe: BuildRecipe
    work: str
    scorers: Any = None
    watched: bool = False


def process_unit(job: UnitJob, unit: Unit, careful: bool = False) -> UnitTotals:
    """Do a unit and commit it; one that is committed is only counted.

    Args:
        careful: an attempt before lost its worker: every picture is decoded in a child process with hard limits.
    """
    configure(job.recipe.storage)
    path = unit_path(job.work, unit.number)
    if exists(path):
        return totals_of(read_unit(path), reused=True)
    with ExitStack() as stack:
        images = job.recipe.images
        child = stack.enter_context(Careful(images.decode_seconds, images.decode_memory_mb)) if careful else None
        making = Making(job.recipe, child, _watchdog(images) if job.watched and not careful else None)
        fetcher = _fetcher(job.recipe.fetch)
        for (position, number), got in fetcher.fetch(making.references(unit)):
            making.take(position, number, got)
    if job.scorers is not None:
        _score(making.outcomes, job)
    writer = UnitWriter()
    for position in unit.positions:
        outcome = making.outcomes[position]
        if isinstance(outcome, Reject):
            writer.reject(position, outcome)
        else:
            writer.keep(position, outcome.sample, outcome.exact, outcome.near)
    return writer.commit(path)


@lru_cache(maxsize=2)
def _watchdog(images: ImagesConfig) -> Watchdog:
    return Watchdog(images.decode_memory_mb)


_fetchers: dict[FetchConfig, Fetcher] = {}


def _fetcher(config: FetchConfig) -> Fetcher:
    """Kept by the worker for all its units: connections and robots.txt are used again."""
    if config not in _fetchers:
        close_fetchers()
        _fetchers[config] = Fetcher(config)
    return _fetchers[config]


def close_fetchers() -> None:
    """End what fetches in this process; a Ray worker ends with it anyway."""
    while _fetchers:
        _fetchers.popitem()[1].close()


def _score(outcomes: dict[int, Made | Reject], job: UnitJob) -> None:
    """Ask the models about the kept samples, in input order, some batches at a time; scores go to provenance."""
    kept = [(position, made) for position, made in sorted(outcomes.items()) if isinstance(made, Made)]
    portion = 4 * max(config.batch for config in job.recipe.filters.scorers)
    for start in range(0, len(kept), portion):
        part = kept[start : start + portion]
        samples = [made.sample for _, made in part]
        pixels = [[pixels_of(data) for data in sample.images] for sample in samples]
        for (position, made), scored in zip(part, job.scorers.score(samples, pixels), strict=True):
            if isinstance(scored, Reject):
                outcomes[position] = scored
            else:
                sample = replace(made.sample, provenance={**made.sample.provenance, **scored})
                outcomes[position] = replace(made, sample=sample)
