"""The ordered cut: committed units, in input order -> shards with equal counts, and the manifest's totals.

A shard is the run of input rows up to its K-th kept one. Nothing here depends on how many workers made the units,
or in which order: the same input gives the same bytes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from data_pipeline.ingest.units import Outcome
from data_pipeline.manifest import ShardEntry
from data_pipeline.shard import OUTCOME_SCHEMA, ShardWriter, table_bytes
from data_pipeline.storage import join, put


@dataclass
class Totals:
    """Running counts over all rows. Conservation: rows = kept + sum(rejected)."""

    rows: int = 0
    kept: int = 0
    bytes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    pictures: Counter[int] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.rows += 1
        if outcome.sample is not None:
            self.kept += 1
            self.pictures[len(outcome.sample.images)] += 1
        elif outcome.reject is not None:
            self.rejected[f"{outcome.reject.stage}/{outcome.reject.reason}"] += 1

    def as_dict(self) -> dict[str, Any]:
        if self.rows != self.kept + sum(self.rejected.values()):
            raise AssertionError(f"rows {self.rows} are not kept {self.kept} + rejected {dict(self.rejected)}")
        return {
            "rows": self.rows,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "pictures_per_sample": {str(k): v for k, v in sorted(self.pictures.items())},
            "bytes": self.bytes,
        }


def cut(outcomes: Iterable[Outcome], output: str, shard_size: int) -> tuple[tuple[ShardEntry, ...], dict[str, Any]]:
    """Write all shards; returns their entries and the totals.

    Rows rejected after the last kept one join the last shard: a shard without samples exists only where nothing at
    all was kept.
    """
    totals = Totals()
    entries: list[ShardEntry] = []
    full: tuple[ShardWriter, list[dict[str, Any]]] | None = None
    writer, rows = ShardWriter(), []
    for outcome in outcomes:
        totals.add(outcome)
        if outcome.sample is not None:
            if full is not None:
                entries.append(_publish(output, len(entries), *full, totals))
                full = None
            writer.add(outcome.sample)
        reject = outcome.reject
        rows.append(
            {
                "position": outcome.position,
                "outcome": "kept" if reject is None else "rejected",
                "stage": None if reject is None else reject.stage,
                "reason": None if reject is None else reject.reason,
                "detail": None if reject is None else reject.detail,
            }
        )
        if outcome.sample is not None and len(writer.rows) == shard_size:
            full, writer, rows = (writer, rows), ShardWriter(), []
    if full is not None:
        full[1].extend(rows)
        entries.append(_publish(output, len(entries), *full, totals))
    elif rows:
        entries.append(_publish(output, len(entries), writer, rows, totals))
    return tuple(entries), totals.as_dict()


def _publish(output: str, number: int, writer: ShardWriter, rows: list[dict[str, Any]], totals: Totals) -> ShardEntry:
    name = f"{number:05d}"
    files = {
        "tar": writer.tar_bytes(),
        "index": table_bytes(writer.index_table()),
        "outcomes": table_bytes(pa.Table.from_pylist(rows, OUTCOME_SCHEMA)),
    }
    endings = {"tar": "tar", "index": "index.parquet", "outcomes": "outcomes.parquet"}
    for kind, data in files.items():
        put(join(output, f"{name}.{endings[kind]}"), data)
    totals.bytes += len(files["tar"])
    hashes = {kind: hashlib.sha256(data).hexdigest() for kind, data in files.items()}
    return ShardEntry(name, len(writer.rows), len(rows), len(files["tar"]), hashes)
