"""Hashes of all rows, in chunks -> which rows are duplicates of an earlier one.

```
chunk --load--> rows --by key--> buckets --> drops --by position--> folder/NNNNN.parquet ... found.json
```
First the exact duplicates, then, among the rows that are left, the near ones. A row is dropped if an earlier row is
its duplicate, whether that one stays or not; published rows come before all others and are never dropped. So the
result is a function of the rows alone: chunking, order, workers and what is killed do not matter.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pyarrow as pa

from configs.ingest import DedupConfig, StorageConfig
from data_pipeline.ingest.dedup.drops import Found, read_found, write_found
from data_pipeline.ingest.dedup.exchange import Here, OnRay
from data_pipeline.ingest.dedup.perceptual import NEAR_BYTES, NEAR_VERSION
from data_pipeline.ingest.dedup.search import EXACT, NEAR, Task, mean_rows, search
from data_pipeline.storage import join, remove_tree

T = TypeVar("T")

HASHES = pa.schema(
    [
        ("position", pa.int64()),
        ("exact", pa.binary(16)),
        ("near", pa.binary(NEAR_BYTES)),
        ("published", pa.bool_()),
    ]
)
"""What `load` gives. A row whose `exact` or `near` is null takes no part in that search."""


def find_drops(
    chunks: Iterable[T],
    load: Callable[[T], pa.Table],
    config: DedupConfig,
    folder: str,
    span: int,
    *,
    on_ray: bool,
    storage: StorageConfig | None = None,
) -> int:
    """Write which rows are to be dropped to `folder` (which is this search's own), for `drops.read_drops`.

    Args:
        chunks: what `load` is called with, inside tasks.
        load: a chunk's rows as HASHES; must be picklable, and give the same rows each time.
        span: positions of one file.
        storage: how tasks reach `folder`, where it is on S3.

    Returns:
        How many rows are dropped. What is done already is not done again.

    Raises:
        RunError: tasks were lost again and again, or did not end.
    """
    settings: dict[str, Any] = {"span": span, "exact": config.exact, "near": config.near and NEAR_VERSION, "version": 1}
    found = _made(folder, settings)
    if found is not None:
        return sum(found.dropped.values())
    first = join(folder, "exact") if config.near else folder
    exact = _made(first, settings) if config.near else None
    if exact is None:
        remove_tree(folder)
    everything = list(chunks)
    with OnRay() if on_ray else Here(folder) as exchange:
        rows = mean_rows(exchange, everything, load)
        if exact is None:
            exact = Found(settings, {}, {})
            if config.exact != "none":
                task = Task(EXACT, load, span, first, storage)
                exact = Found(settings, *search(exchange, task, everything, rows))
            write_found(first, exact)
        if config.near:
            task = Task(NEAR, load, span, folder, storage, first, exact.spans)
            exact = Found(settings, *search(exchange, task, everything, rows))
            write_found(folder, exact)
    if config.near:
        remove_tree(first)
    return sum(exact.dropped.values())


def _made(folder: str, settings: dict[str, Any]) -> Found | None:
    found = read_found(folder)
    return found if found is not None and found.search == settings else None
