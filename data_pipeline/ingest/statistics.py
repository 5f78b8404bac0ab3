"""Statistics of shards: index + outcomes of one shard -> a dict of sums -> statistics.parquet and statistics.json.

Everything is a sum over rows, samples or pictures, so the statistics of any shards add up to those of all of them.
The bins of histograms are fixed for the same reason. Both files are functions of the shards alone: no time, no path.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.storage import exists, join, put, put_file, read_bytes

TABLE, TOTALS = "statistics.parquet", "statistics.json"
SIDES = (0, 32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024, 1536, 2048, 3072, 4096, 8192)
BINS: dict[str, tuple[float, ...]] = {
    "width": SIDES,
    "height": SIDES,
    "aspect": (0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 0.9, 1.1, 4 / 3, 3 / 2, 2, 3, 4),
    "picture_bytes": (0, *(2**n for n in range(10, 25))),
    "text_chars": (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000),
}
"""Lower edges: bin i counts values in [edge i, edge i+1), the last one all from its edge on.

width, height: pixels as stored; aspect: width / height; picture_bytes: of one encoded picture; text_chars: of a sample.
"""

SUMS = ("shards", "rows", "kept", "pictures", "picture_bytes", "pixels", "text_chars")
MAPS = ("rejected", "samples_by_pictures", "formats")
ROW_GROUP = 512
"""Shards in a row group of the table: what is held in memory while it is written."""


def shard_statistics(index: pa.Table, outcomes: pa.Table) -> dict[str, Any]:
    """What one shard holds, as JSON values that add up over shards.

    Args:
        index: a row per kept sample (INDEX_SCHEMA).
        outcomes: a row per input row (OUTCOME_SCHEMA).

    Returns:
        shards (1), rows = kept + sum(rejected {"stage/reason": n}); pictures, their picture_bytes (encoded) and pixels,
        text_chars; samples_by_pictures {"1": n}, formats {"jpg": n} (pictures); histograms {name: counts of BINS}.

    Raises:
        ValueError: the index holds other than the kept rows.
    """
    kept = pc.equal(outcomes["outcome"], "kept")
    count = int(pc.sum(kept).as_py() or 0)
    if count != index.num_rows:
        raise ValueError(f"outcomes keep {count} rows, the index has {index.num_rows}")
    refused = outcomes.filter(pc.invert(kept))
    reasons = pc.binary_join_element_wise(
        pc.fill_null(refused["stage"], "unknown"), pc.fill_null(refused["reason"], "unknown"), "/"
    )
    width, height, size = (_flat(index[name]) for name in ("width", "height", "image_size"))
    chars = _numbers(index["text_chars"])
    values = {
        "width": width,
        "height": height,
        "aspect": width / np.maximum(height, 1),
        "picture_bytes": size,
        "text_chars": chars,
    }
    return {
        "shards": 1,
        "rows": outcomes.num_rows,
        "kept": count,
        "rejected": _counts(reasons),
        "pictures": len(width),
        "picture_bytes": int(size.sum()),
        "pixels": int((width * height).sum()),
        "text_chars": int(chars.sum()),
        "samples_by_pictures": _counts(pc.fill_null(pc.list_value_length(index["width"]), 0)),
        "formats": _counts(pc.list_flatten(index["image_format"])),
        "histograms": {name: _histogram(values[name], edges) for name, edges in BINS.items()},
    }


def merge(statistics: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The statistics of all together; of nothing: zeros. Order and grouping do not matter."""
    total: dict[str, Any] = dict.fromkeys(SUMS, 0)
    maps: dict[str, dict[str, int]] = {name: {} for name in MAPS}
    bins = {name: np.zeros(len(edges), np.int64) for name, edges in BINS.items()}
    for one in statistics:
        for name in SUMS:
            total[name] += one[name]
        for name, counts in maps.items():
            for key, number in one[name].items():
                counts[key] = counts.get(key, 0) + number
        for name, sums in bins.items():
            sums += np.asarray(one["histograms"][name], np.int64)
    total |= {name: dict(sorted(counts.items())) for name, counts in maps.items()}
    return {**total, "histograms": {name: sums.tolist() for name, sums in bins.items()}}


def write_statistics(
    output: str, shards: Iterable[tuple[str, Mapping[str, Any]]], superseded: Mapping[str, int] | None = None
) -> None:
    """Write statistics.parquet (a row per shard, in the order given) and statistics.json (the sums, and the bins).

    Args:
        shards: (name, statistics of `shard_statistics`); read once, so a generator of any length is fine.
        superseded: {"stage/reason": n} of rejections that a later shard tried again: in the sums, each input row
            counts once, by its latest outcome.
    """
    total, left = merge(()), iter(shards)

    def write(path: str) -> None:
        nonlocal total
        with pq.ParquetWriter(path, _schema(), compression="zstd") as writer:
            while part := list(islice(left, ROW_GROUP)):
                total = merge((total, *(one for _, one in part)))
                writer.write_table(pa.Table.from_pylist([_row(*shard) for shard in part], _schema()))

    put_file(join(output, TABLE), write)
    put(join(output, TOTALS), _json({**_without(total, superseded or {}), "bins": BINS}))


def read_totals(output: str) -> dict[str, Any] | None:
    """statistics.json of a dataset; None where there is none."""
    path = join(output, TOTALS)
    return json.loads(read_bytes(path)) if exists(path) else None


def _without(total: Mapping[str, Any], superseded: Mapping[str, int]) -> dict[str, Any]:
    """Raises ValueError where more was superseded than rejected."""
    rejected = {reason: count - superseded.get(reason, 0) for reason, count in total["rejected"].items()}
    if superseded.keys() - rejected.keys() or min(rejected.values(), default=0) < 0:
        raise ValueError(f"superseded {dict(superseded)} is not among the rejected {total['rejected']}")
    rows = total["rows"] - sum(superseded.values())
    return {**total, "rows": rows, "rejected": {reason: count for reason, count in rejected.items() if count}}


def _schema() -> pa.Schema:
    """Flat sums, maps, and a list column for each histogram; its lower edges are in the schema's metadata."""
    fields = [("shard", pa.string())]
    fields += [(name, pa.int64()) for name in SUMS if name != "shards"]
    fields += [(name, pa.map_(pa.string(), pa.int64())) for name in MAPS]
    fields += [(f"histogram_{name}", pa.list_(pa.int64())) for name in BINS]
    return pa.schema(fields, metadata={f"bins_{name}": json.dumps(edges) for name, edges in BINS.items()})


def _row(name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"shard": name}
    row |= {key: one[key] for key in SUMS if key != "shards"}
    row |= {key: sorted(one[key].items()) for key in MAPS}
    return row | {f"histogram_{key}": one["histograms"][key] for key in BINS}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """A column of lists of integers as one int64 array."""
    return _numbers(pc.list_flatten(column))


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.int64)


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value is there, by its text."""
    counts = ((str(pair["values"]), pair["counts"]) for pair in pc.value_counts(column).to_pylist())
    return dict(sorted(counts))


def _histogram(values: np.ndarray, edges: tuple[float, ...]) -> list[int]:
    places = np.searchsorted(edges, values, side="right") - 1
    return np.bincount(places, minlength=len(edges)).tolist()
