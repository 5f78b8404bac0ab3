"""The result is a function of the rows alone, equal to the definition, whatever is cut, shuffled or killed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from configs.errors import RunError
from configs.ingest import DedupConfig
from data_pipeline.ingest.dedup import buckets, drops, search
from data_pipeline.ingest.dedup.drops import read_drops
from data_pipeline.ingest.dedup.perceptual import perceptual_hash
from data_pipeline.ingest.dedup.run import find_drops
from tests.data_pipeline.ingest.dedup.conftest import (
    BOTH,
    SPAN,
    brighter,
    cut,
    expected,
    files,
    found,
    hashes,
    itself,
    picture,
)

ROWS = 300


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Rows in any order, with exact duplicates, near ones, chains, published rows, and rows without hashes."""
    random = np.random.default_rng(0)
    base = [picture(seed) for seed in range(60)]
    look = [perceptual_hash(brighter(base[random.integers(60)], int(random.integers(-4, 5)))) for _ in range(ROWS)]
    exact = [random.bytes(16) if random.random() < 0.6 else bytes([int(random.integers(40))] * 16) for _ in range(ROWS)]
    lacks = random.random((2, ROWS)) < 0.1
    return hashes(
        random.permutation(3 * ROWS)[:ROWS].tolist(),
        [None if lack else value for lack, value in zip(lacks[0], exact, strict=True)],
        [None if lack else value for lack, value in zip(lacks[1], look, strict=True)],
        (random.random(ROWS) < 0.2).tolist(),
    )


def pieces(task_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tasks for few rows."""
    monkeypatch.setattr(search, "TASK_BYTES", task_bytes)


def test_it_finds_what_the_definition_says(table: pa.Table, tmp_path: Path) -> None:
    wanted = expected(table)
    assert {kind for _, kind in wanted.values()} == {"exact", "near"}
    assert found(tmp_path / "drops", [table], BOTH) == wanted


@pytest.mark.parametrize("sizes", [[ROWS], [100, 200], [1] * ROWS, [0, 7, 0, 93, 200]])
@pytest.mark.parametrize("task_bytes", [1 << 26, 4000])
def test_files_are_the_same_however_rows_are_cut_and_ordered(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], task_bytes: int
) -> None:
    found(tmp_path / "whole", [table], BOTH)
    pieces(task_bytes, monkeypatch)
    shuffled = table.take(np.random.default_rng(len(sizes)).permutation(ROWS))
    found(tmp_path / "cut", cut(shuffled, sizes), BOTH)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_flooded_partition_gives_the_same(table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows of a partition are more than is held at once, they are gone through twice."""
    found(tmp_path / "whole", [table], BOTH)
    whole: Callable[..., np.ndarray] = search.find_in
    monkeypatch.setattr(search, "find_in", lambda rows, rule, _: whole(rows, rule, 3000))
    found(tmp_path / "flooded", cut(table, [10] * 30), BOTH)
    assert files(tmp_path / "flooded") == files(tmp_path / "whole")


def test_published_rows_are_never_dropped_and_come_first(tmp_path: Path) -> None:
    same = [b"k" * 16] * 4
    table = hashes([5, 1, 9, 7], same, published=[True, False, True, False])
    assert found(tmp_path / "drops", [table], {"exact": "image"}) == {1: (5, "exact"), 7: (5, "exact")}


def test_a_row_is_dropped_for_one_that_is_dropped_itself(tmp_path: Path) -> None:
    """a ~ b and b ~ c but not a ~ c: c is b's copy, and b is named, although b goes for a."""
    a, b, c = (perceptual_hash(brighter(picture(5), levels)) for levels in (0, 3, 6))
    for number, (look, dropped) in enumerate(
        (
            ([a, b, c], {1: (0, "near"), 2: (1, "near")}),
            ([a, c, b], {2: (0, "near")}),
            ([b, c, a], {1: (0, "near"), 2: (0, "near")}),
        )
    ):
        assert found(tmp_path / f"{number}", [hashes([0, 1, 2], look=look)], {"near": True}) == dropped


def test_an_exact_duplicate_is_no_near_one(tmp_path: Path) -> None:
    """Rows that went as exact duplicates take no part in the second search, and are named in the files as such."""
    look = [perceptual_hash(picture(5))] * 3
    table = hashes([0, 1, 2], [b"a" * 16, b"a" * 16, b"b" * 16], look)
    assert found(tmp_path / "drops", [table], BOTH) == {1: (0, "exact"), 2: (0, "near")}


def test_rows_without_hashes_stay(tmp_path: Path) -> None:
    assert found(tmp_path / "drops", [hashes([0, 1, 2])], BOTH) == {}


def test_texts_alone_are_found_by_their_exact_hash(tmp_path: Path) -> None:
    table = hashes([3, 4, 5], [b"t" * 16, b"u" * 16, b"t" * 16])
    assert found(tmp_path / "drops", [table], BOTH) == {5: (3, "exact")}


def test_no_rows_at_all(tmp_path: Path) -> None:
    assert found(tmp_path / "one", [hashes([])], BOTH) == {}
    assert find_drops([], itself, DedupConfig(exact="image", near=True), str(tmp_path / "two"), SPAN, on_ray=False) == 0


def test_only_a_motif_that_floods_a_bucket_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are compared with the earliest different ones of a bucket; copies of these do not count against them."""
    few = buckets.Rule(search.EXACT.rule.alike, None, 2)
    monkeypatch.setattr(
        search, "EXACT", search.Kind("exact", lambda h: (np.arange(len(h)), np.zeros(len(h), np.uint64)), 1.0, 8, few)
    )
    monkeypatch.setattr("data_pipeline.ingest.dedup.run.EXACT", search.EXACT)
    keys = [b"a" * 16, b"a" * 16, b"b" * 16, b"c" * 16, b"b" * 16, b"c" * 16]
    assert found(tmp_path / "drops", [hashes(range(6), keys)], {"exact": "image"}) == {1: (0, "exact"), 4: (2, "exact")}


class Killed(BaseException):
    pass


def test_killed_anywhere_the_same_command_ends_the_same(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "whole", [table], BOTH)
    real, left = drops.put, [0]

    def put(path: str, data: bytes) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(path, data)

    deaths = 0
    with monkeypatch.context() as patch:
        patch.setattr(drops, "put", put)
        for allowed in range(1, 100):
            left[0] = allowed
            try:
                found(tmp_path / "killed", [table], BOTH)
                break
            except Killed:
                deaths += 1
                with pytest.raises(RunError, match="run the same command again"):
                    read_drops(str(tmp_path / "killed"), SPAN, 0, 10)
    assert deaths > 5
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_what_a_killed_process_left_behind_is_removed(table: pa.Table, tmp_path: Path) -> None:
    left = tmp_path / "drops" / ".looksay-abc"
    left.mkdir(parents=True)
    (left / "0.npy").write_bytes(b"half")
    found(tmp_path / "drops", [table], BOTH)
    assert not left.exists()


def test_nothing_is_done_twice(table: pa.Table, tmp_path: Path) -> None:
    def load(chunk: pa.Table) -> pa.Table:
        raise AssertionError("asked again")

    found(tmp_path, [table], BOTH)
    count = find_drops([table], load, DedupConfig(**BOTH), str(tmp_path), SPAN, on_ray=False)
    assert count == len(expected(table))


def test_another_search_in_the_same_folder_starts_anew(table: pa.Table, tmp_path: Path) -> None:
    found(tmp_path / "drops", [table], BOTH)
    exact = {at: drop for at, drop in expected(table).items() if drop[1] == "exact"}
    assert found(tmp_path / "drops", [table], {"exact": "image"}) == exact


def test_reading_gives_a_range_of_positions(table: pa.Table, tmp_path: Path) -> None:
    wanted = found(tmp_path, [table], BOTH)
    for start, stop in ((0, SPAN), (50, 250), (SPAN, SPAN), (10**9, 10**9 + 5)):
        got = read_drops(str(tmp_path), SPAN, start, stop)
        assert got["position"].to_pylist() == sorted(at for at in wanted if start <= at < stop)


def test_reading_with_other_spans_is_refused(table: pa.Table, tmp_path: Path) -> None:
    found(tmp_path, [table], BOTH)
    with pytest.raises(RunError, match="not of 7"):
        read_drops(str(tmp_path), 7, 0, 10)


def test_a_changed_file_is_noticed(table: pa.Table, tmp_path: Path) -> None:
    find_drops([table], itself, DedupConfig(**BOTH), str(tmp_path), SPAN, on_ray=False)
    number = next(iter(json.loads((tmp_path / "found.json").read_text())["spans"]))
    path = tmp_path / f"{int(number):05d}.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="was changed"):
        read_drops(str(tmp_path), SPAN, 0, 10 * ROWS)


def test_another_folder_at_the_same_place_is_read_anew(tmp_path: Path) -> None:
    """Readers keep files: in one process, one build after another may use the same path."""
    for first in (0, 1):
        one = hashes([0, 1, 2], [bytes([first]) * 16, b"\0" * 16, b"\1" * 16])
        assert set(found(tmp_path / "drops", [one], {"exact": "image"})) == {first + 1}
        for path in (tmp_path / "drops").iterdir():
            path.unlink()


def _second(chunk: Any) -> pa.Table:
    raise RunError("the disk is full")


def test_what_a_task_says_comes_out(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the disk is full"):
        find_drops([1], _second, DedupConfig(**BOTH), str(tmp_path), SPAN, on_ray=False)
