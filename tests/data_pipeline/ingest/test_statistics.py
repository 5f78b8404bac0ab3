"""Statistics of shards: exact, additive, the same bytes each time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.ingest import statistics
from data_pipeline.ingest.statistics import BINS, merge, read_totals, shard_statistics, write_statistics
from data_pipeline.shard import INDEX_SCHEMA, OUTCOME_SCHEMA


def sample(
    key: int, sizes: list[tuple[int, int]], chars: int, bytes_each: int = 1500, kind: str = "jpg"
) -> dict[str, Any]:
    return {
        "key": f"{key:012d}",
        "image_size": [bytes_each] * len(sizes),
        "image_format": [kind] * len(sizes),
        "width": [width for width, _ in sizes],
        "height": [height for _, height in sizes],
        "text_chars": chars,
    }


def tables(rows: list[dict[str, Any] | str]) -> tuple[pa.Table, pa.Table]:
    """Index and outcomes; a row is a sample, or `stage/reason`."""
    outcomes = []
    for position, row in enumerate(rows):
        stage, reason = row.split("/") if isinstance(row, str) else (None, None)
        outcome = "rejected" if isinstance(row, str) else "kept"
        outcomes.append({"position": position, "outcome": outcome, "stage": stage, "reason": reason})
    index = [row for row in rows if not isinstance(row, str)]
    return pa.Table.from_pylist(index, INDEX_SCHEMA), pa.Table.from_pylist(outcomes, OUTCOME_SCHEMA)


def random_rows(seed: int, count: int) -> list[dict[str, Any] | str]:
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any] | str] = []
    for key in range(count):
        if random.random() < 0.3:
            rows.append(str(random.choice(["fetch/timeout", "fetch/status", "decode/corrupt", "dedup/near"])))
            continue
        sizes = [(int(w), int(h)) for w, h in random.integers(1, 9000, (random.integers(0, 4), 2))]
        chars, size = (int(10 ** random.uniform(0, top)) for top in (5, 8))
        rows.append(sample(key, sizes, chars, size, str(random.choice(["jpg", "png", "webp"]))))
    return rows


def filled(name: str, one: dict[str, Any]) -> dict[float, int]:
    """Counts of a histogram by lower edge, where there are any."""
    return {edge: count for edge, count in zip(BINS[name], one["histograms"][name], strict=True) if count}


def test_a_shard_is_counted_exactly() -> None:
    one = shard_statistics(
        *tables(
            [
                sample(0, [(256, 256)], 9),
                "fetch/timeout",
                sample(2, [(64, 63), (60_000, 60_000)], 10, 2048, "png"),
                "decode/corrupt",
                "fetch/timeout",
                sample(5, [], 0),
            ]
        )
    )
    assert {name: one[name] for name in one if name != "histograms"} == {
        "shards": 1,
        "rows": 6,
        "kept": 3,
        "rejected": {"decode/corrupt": 1, "fetch/timeout": 2},
        "pictures": 3,
        "picture_bytes": 1500 + 2 * 2048,
        "pixels": 256 * 256 + 64 * 63 + 60_000 * 60_000,
        "text_chars": 19,
        "samples_by_pictures": {"0": 1, "1": 1, "2": 1},
        "formats": {"jpg": 1, "png": 2},
    }
    assert filled("width", one) == {64: 1, 256: 1, 8192: 1} and filled("height", one) == {32: 1, 256: 1, 8192: 1}
    assert filled("aspect", one) == {0.9: 3}
    assert filled("picture_bytes", one) == {1024: 1, 2048: 2} and filled("text_chars", one) == {0: 1, 5: 1, 10: 1}
    assert json.loads(json.dumps(one)) == one, "not plain JSON"


def test_equal_shapes_share_a_bin() -> None:
    """A ratio on an edge belongs to the bin above it, whatever the size."""
    for (wide, high), edge in {(4, 3): 4 / 3, (3, 4): 3 / 4, (2, 3): 2 / 3, (1, 3): 1 / 3, (3, 1): 3}.items():
        one = shard_statistics(*tables([sample(0, [(wide * n, high * n) for n in (1, 7, 33, 100, 999)], 1)]))
        assert filled("aspect", one) == {edge: 5}


def test_parts_add_up_to_the_whole() -> None:
    rows = random_rows(1, 400)
    whole = shard_statistics(*tables(rows))
    parts = [shard_statistics(*tables(rows[start:stop])) for start, stop in ((0, 1), (1, 150), (150, 400))]
    assert merge(parts) == {**whole, "shards": 3}
    assert all(sum(whole["histograms"][name]) == whole["pictures"] for name in BINS if name != "text_chars")
    assert sum(whole["histograms"]["text_chars"]) == whole["kept"] == whole["rows"] - sum(whole["rejected"].values())
    chunked = [pa.concat_tables([table.slice(0, 37), table.slice(37)]) for table in tables(rows)]
    assert shard_statistics(*chunked) == whole, "chunks of a table change the counts"


def test_merging_needs_no_order() -> None:
    a, b, c = (shard_statistics(*tables(random_rows(seed, 60))) for seed in (2, 3, 4))
    before = json.dumps([a, b, c])
    assert merge([merge([a, b]), c]) == merge([a, merge([b, c])]) == merge([c, a, b])
    assert merge([a]) == a and merge([merge([]), a]) == a
    assert json.dumps([a, b, c]) == before, "merging changed what it merged"


def test_nothing_kept_and_nothing_at_all() -> None:
    one = shard_statistics(*tables(["fetch/timeout", "source/bad_row"]))
    assert (one["rows"], one["kept"], one["pictures"]) == (2, 0, 0)
    assert {**shard_statistics(*tables([])), "shards": 0} == merge([])


def test_an_index_of_other_rows_is_refused() -> None:
    index, outcomes = tables(["fetch/timeout", sample(1, [(9, 9)], 3)])
    with pytest.raises(ValueError, match="outcomes keep 1 rows, the index has 0"):
        shard_statistics(index.slice(0, 0), outcomes)


def test_files_hold_each_shard_and_the_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [(f"{n:05d}", shard_statistics(*tables(random_rows(n, 20 + n)))) for n in range(7)]
    monkeypatch.setattr(statistics, "ROW_GROUP", 3)  # three row groups, the last one short
    write_statistics(str(tmp_path / "a"), (shard for shard in shards))
    write_statistics(str(tmp_path / "elsewhere"), shards)
    files, others = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("a", "elsewhere"))
    assert files == others, "the bytes depend on more than the shards"
    assert set(files) == {"statistics.json", "statistics.parquet"}
    totals = read_totals(str(tmp_path / "a"))
    assert totals is not None
    bins = totals.pop("bins")
    assert totals == merge(one for _, one in shards) and {name: tuple(bins[name]) for name in bins} == BINS

    table = pq.read_table(tmp_path / "a" / "statistics.parquet")
    assert table.schema.field("rejected").type == pa.map_(pa.string(), pa.int64())
    assert pq.ParquetFile(tmp_path / "a" / "statistics.parquet").num_row_groups == 3
    for row, (name, one) in zip(table.to_pylist(), shards, strict=True):
        assert row["shard"] == name and row["rows"] == one["rows"] and row["pixels"] == one["pixels"]
        assert dict(row["rejected"]) == one["rejected"] and dict(row["formats"]) == one["formats"]
        assert row["histogram_aspect"] == one["histograms"]["aspect"]
    assert sum(table["kept"].to_pylist()) == totals["kept"]


def test_a_dataset_without_statistics(tmp_path: Path) -> None:
    assert read_totals(str(tmp_path)) is None


def test_a_row_tried_again_counts_once(tmp_path: Path) -> None:
    first = shard_statistics(*tables([sample(0, [(9, 9)], 1), "fetch/timeout", "fetch/timeout", "decode/corrupt"]))
    again = shard_statistics(*tables([sample(1, [(9, 9)], 1), "fetch/status"]))
    shards = [("00000", first), ("00001", again)]
    write_statistics(str(tmp_path), shards, {"fetch/timeout": 2})
    totals = read_totals(str(tmp_path))
    assert totals is not None
    assert (totals["rows"], totals["kept"]) == (4, 2) and totals["rejected"] == {"decode/corrupt": 1, "fetch/status": 1}
    assert pq.read_table(tmp_path / "statistics.parquet")["rows"].to_pylist() == [4, 2], "shards stay as they are"
    for wrong in ({"fetch/timeout": 3}, {"fetch/robots": 1}):
        with pytest.raises(ValueError, match="is not among the rejected"):
            write_statistics(str(tmp_path), shards, wrong)
