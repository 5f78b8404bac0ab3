"""The loader: the same rows at any number of ranks, steps that can be sought, damage that is counted and named."""

import errno
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import RunError, UserError
from configs.schema import TrainRecipe
from data_pipeline.shard import read_table
from data_pipeline.stream.batch import NO_TARGET, Batch
from data_pipeline.stream.lines import stream_rows
from data_pipeline.stream.loader import Loader, _Feeder
from data_pipeline.stream.prefetch.pool import Task
from data_pipeline.stream.read.dataset import BadSample, Dataset
from data_pipeline.stream.statistics import pack_statistics, pack_table
from tests.data_pipeline.stream.conftest import train_recipe


def same(one: Any, other: Any) -> bool:
    """Two batches (or parts of them) hold the same."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if hasattr(one, "__dataclass_fields__"):
        return all(same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
    return bool(one == other)


def rows_of(batches: list[Batch]) -> dict[int, tuple[Any, ...]]:
    """Number of the row -> its samples and its tokens."""
    out = {}
    for batch in batches:
        for place, info in enumerate(batch.rows):
            if info.row < 0:
                assert info.tokens == 0 and (batch.targets[place] == NO_TARGET).all(), "a dummy row is not empty"
                continue
            assert info.row not in out
            out[info.row] = (info, batch.ids[place].tobytes(), batch.targets[place].tobytes())
    return out


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    """A world to spoil, its token counts made while it was whole."""
    folder = Path(shutil.copytree(world, tmp_path / "world"))
    Loader(train_recipe(folder)).close()
    return folder


@pytest.fixture
def loader(world: Path) -> Iterator[Loader]:
    made = Loader(train_recipe(world))
    yield made
    made.close()


@pytest.mark.parametrize("cnn", [False, True])
@pytest.mark.parametrize(("size", "per_rank"), [(2, 2), (4, 1), (3, 1), (4, 2), (1, 5)])
def test_the_union_of_ranks_is_the_plan(size: int, per_rank: int, cnn: bool, world: Path) -> None:
    """Any number of ranks, also one that does not divide the rows: the same six rows a step, bit for bit."""
    alone = Loader(train_recipe(world, cnn))
    ranks = [Loader(train_recipe(world, cnn, per_rank), dp_rank=rank, dp_size=size) for rank in range(size)]
    for step in (0, 1, 4):
        wanted = rows_of(alone.build(step))
        assert sorted(wanted) == list(range(6))
        batches = [made.build(step) for made in ranks]
        assert len({len(part) for part in batches}) == 1, "ranks do not have the same number of micro-steps"
        assert rows_of([batch for part in batches for batch in part]) == wanted
        assert {batch.denominator for part in batches for batch in part} == {alone.plan.step(step).denominator}
        assert {made.ids_hash(step) for made in ranks} == {alone.ids_hash(step)}


@pytest.mark.parametrize("cnn", [False, True])
def test_collated_counts_are_the_planned_ones(cnn: bool, world: Path) -> None:
    made = Loader(train_recipe(world, cnn))
    merge = made.geometry.merge**2
    for step in range(6):
        planned, batches = made.plan.step(step), made.build(step)
        infos = [info for batch in batches for info in batch.rows]
        for info, row in zip(infos, planned.rows(), strict=True):
            assert (info.tokens, info.patches, info.labels) == (row.tokens.sum(), row.patches.sum(), row.labels.sum())
            assert info.visual == row.visual.sum() == row.patches.sum() // merge
        assert sum(batch.label_tokens for batch in batches) == planned.denominator
        for batch in batches:
            assert len(batch.vision.slots) == sum(info.visual for info in batch.rows)


def test_steps_in_order_by_seek_and_after_a_restore_are_the_same(world: Path, loader: Loader) -> None:
    wanted = [loader.build(step) for step in range(14)]
    other = Loader(train_recipe(world))
    for step in [0, 1, 2, 9, 10, 3, 4, 13, 0]:  # in order, forward, back
        assert same(other.step(step), wanted[step]), f"step {step}"
    state = json.loads(json.dumps(other.state_dict(7)))
    other.close()
    fresh = Loader(train_recipe(world))
    fresh.load_state_dict(state)
    assert state["step"] == 7
    for step in range(7, 14):
        assert same(fresh.step(step), wanted[step])
    fresh.close()


def test_a_state_of_other_data_is_refused(world: Path, loader: Loader) -> None:
    other = Loader(train_recipe(world, packing={"length": 160, "rows_per_step": 6, "window_steps": 3}))
    with pytest.raises(UserError, match="changed since the checkpoint"):
        other.load_state_dict(loader.state_dict(3))


def test_the_thread_ends_with_the_loader_and_at_the_last_step(world: Path) -> None:
    made = Loader(train_recipe(world))
    before = threading.active_count()
    made.step(23)
    with pytest.raises(IndexError, match="step 24 is not one of the stage's 24"):
        made.step(24)
    made.step(0)
    made.close()
    assert threading.active_count() <= before


def test_an_error_of_the_thread_reaches_who_asks(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Loader(train_recipe(world))
    made.step(0)
    made.close()

    make = made._make

    def broken(task: Task) -> Batch:
        if task.planned.step == 2:
            raise OSError("the disk is gone")
        return make(task)

    monkeypatch.setattr(made, "_make", broken)
    assert made.step(1)
    with pytest.raises(OSError, match="the disk is gone"):
        made.step(2)
    monkeypatch.undo()
    assert made.step(2), "the loader does not go on after an error"
    made.close()


def test_a_thread_that_vanished_is_not_waited_for(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Loader(train_recipe(world))
    monkeypatch.setattr(_Feeder, "_run", lambda *args: None)
    with pytest.raises(RunError, match="ended without a word"):
        made.step(0)


# ---- damage ----------------------------------------------------------------------------------------------------


def flip(folder: Path, shard: str, row: int, column: str, by: int = 9) -> str:
    """Flip a byte of a member; returns the sample's key."""
    entry = read_table((folder / f"{shard}.index.parquet").read_bytes()).to_pylist()[row]
    offset = entry[column] if isinstance(entry[column], int) else entry[column][0]
    data = bytearray((folder / f"{shard}.tar").read_bytes())
    data[offset + by] ^= 4
    (folder / f"{shard}.tar").unlink()  # maps of the old file keep the old bytes
    (folder / f"{shard}.tar").write_bytes(data)
    return str(entry["key"])


@pytest.mark.parametrize("column", ["image_offset", "json_offset"])
def test_a_flipped_byte_is_a_filler_on_every_topology(column: str, world: Path, copy: Path) -> None:
    """Named and counted, of the planned shape, without loss; nothing else changes, at one rank as at three."""
    whole = Loader(train_recipe(world))
    first = whole.plan.step(0).samples
    step, place = 0, int(np.flatnonzero(first.source == 0)[0])
    index, labels = int(first.index[place]), int(first.labels[place])
    key = flip(copy / "captions", whole.datasets[0].shard_of(index), index % 20, column)
    assert key == whole.datasets[0].key(index)
    wanted = rows_of(whole.build(step))
    for size in (1, 3):
        ranks = [Loader(train_recipe(copy, rows_per_rank=1), dp_rank=rank, dp_size=size) for rank in range(size)]
        batches = [batch for made in ranks for batch in made.build(step)]
        found = rows_of(batches)
        fillers = [s for info, *_ in found.values() for s in info.samples if "filler" in s]
        assert [s["key"] for s in fillers] == [key] and "do not have their hash" in fillers[0]["filler"]
        assert sum(made.bad for made in ranks) == 1
        assert {made.ids_hash(step) for made in ranks} == {whole.ids_hash(step)}
        changed = [number for number in wanted if found[number][1:] != wanted[number][1:]]
        assert len(changed) == 1
        info, before = found[changed[0]][0], wanted[changed[0]][0]
        assert (info.tokens, info.visual, info.patches) == (before.tokens, before.visual, before.patches)
        assert info.labels == before.labels - labels
        assert {batch.denominator for batch in batches} == {whole.plan.step(step).denominator}


def test_too_many_bad_samples_end_the_run(copy: Path) -> None:
    table = read_table((copy / "captions" / "00000.index.parquet").read_bytes())
    for row in range(table.num_rows):
        flip(copy / "captions", "00000", row, "image_offset")
    made = Loader(train_recipe(copy))
    with pytest.raises(RunError, match=r"11 of \d+ samples are unreadable .*verify"):
        for step in range(24):
            made.step(step)
    made.close()
    patient = Loader(train_recipe(copy, max_bad_samples=1.0))
    for step in range(4):
        patient.step(step)
    assert patient.bad > 0
    patient.close()


def test_cached_features_take_the_place_of_pictures(world: Path, copy: Path) -> None:
    """Also for a damaged conversation: the row keeps its shape."""

    class Features:
        def get(self, source: int, index: int) -> list[np.ndarray]:
            counts = [rows * columns for rows, columns in grids[source][index]]
            return [np.full((count, 3), index, np.float16) for count in counts]

    from data_pipeline.stream.layout import grid_of

    plain = Loader(train_recipe(world, cnn=True))
    grids = [[[grid_of(*s, plain.geometry) for s in d.sizes(i)] for i in range(len(d))] for d in plain.datasets]
    for row in range(3):
        flip(copy / "captions", "00000", row, "json_offset", by=3)
    made = Loader(train_recipe(copy, cnn=True), features=Features())
    for step in range(6):
        for one, other in zip(made.build(step), plain.build(step), strict=True):
            assert one.vision.images is None and one.vision.features is not None
            assert len(one.vision.features) == len(one.vision.slots) == len(other.vision.slots)
            assert np.array_equal(one.segments, other.segments)
    assert made.bad > 0


def test_the_reader_names_what_is_wrong(copy: Path) -> None:
    dataset = Dataset(str(copy / "talks"))
    key = flip(copy / "talks", "00001", 3, "json_offset")
    with pytest.raises(BadSample, match=rf"sample {key} of .*00001\.tar \(bytes \d+-\d+\)") as caught:
        dataset.read(23)
    assert caught.value.key == key == dataset.key(23)
    assert dataset.shard_of(23) == "00001" and len(dataset) == 50
    (copy / "talks" / "00002.tar").unlink()
    with pytest.raises(RunError, match="is gone"):
        dataset.read(45)
    (copy / "talks" / "00002.index.parquet").unlink()
    with pytest.raises(UserError, match=r"00002\.index\.parquet is missing"):
        Dataset(str(copy / "talks")).key(45)


def test_what_is_unreadable_when_counted_is_never_drawn_and_said(world: Path, tmp_path: Path) -> None:
    """A damaged text has no length. A damaged picture has one: it is drawn, and then a filler."""
    folder = Path(shutil.copytree(world, tmp_path / "world"))
    shutil.rmtree(folder / "captions" / "tokens", ignore_errors=True)
    flip(folder / "captions", "00000", 4, "json_offset")
    flip(folder / "captions", "00000", 5, "image_offset")
    figures = pack_statistics(train_recipe(folder))
    assert figures["unreadable"] == {"captions": 1, "talks": 0}
    assert "source captions: the text of 1 samples is unreadable" in pack_table(figures)
    made = Loader(train_recipe(folder))
    drawn = {
        int(i)
        for step in range(24)
        for i in made.plan.step(step).samples.index[made.plan.step(step).samples.source == 0]
    }
    assert 4 not in drawn and 5 in drawn


def test_a_dataset_that_cannot_be_written_is_counted_each_time(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_pipeline.stream.counts import make

    def refuse(path: str, data: bytes) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    wanted = Loader(train_recipe(copy)).ids_hash(0)
    shutil.rmtree(copy / "captions" / "tokens")
    monkeypatch.setattr(make, "put", refuse)
    assert Loader(train_recipe(copy)).ids_hash(0) == wanted
    assert not (copy / "captions" / "tokens").exists()


# ---- logs and figures ----------------------------------------------------------------------------------------------


def test_the_plan_log_has_each_window_once_also_after_a_kill(world: Path, tmp_path: Path) -> None:
    log = tmp_path / "plan.log"
    for steps in (range(5), range(3, 9)):
        made = Loader(train_recipe(world), plan_log=str(log))
        for step in steps:
            made.build(step)
    with log.open("a") as stream:
        stream.write('{"window": 3, "dra')  # killed in the middle of a line
    made = Loader(train_recipe(world), plan_log=str(log))
    for step in range(6, 15):
        made.build(step)
    windows = []
    for line in log.read_text().splitlines():
        try:
            windows.append(json.loads(line)["window"])
        except ValueError:
            assert line == '{"window": 3, "dra'
    assert windows == [0, 1, 2, 3, 4]


def test_streamed_rows_are_the_loaders(world: Path) -> None:
    recipe = train_recipe(world)
    read = [list(stream_rows(recipe, rank, 2, 2, 3)) for rank in range(2)]
    planned = [list(stream_rows(recipe, rank, 2, 2, 3, decode=False)) for rank in range(2)]
    assert read == planned, "what is planned is not what is read"
    rows = [line for part in read for line in part]
    assert sorted((line["step"], line["row"]) for line in rows if line["row"] >= 0) == [
        (step, row) for step in (2, 3, 4) for row in range(6)
    ]


def test_statistics_of_packing(world: Path) -> None:
    recipe: TrainRecipe = train_recipe(world, packing={"length": 256, "rows_per_step": 8, "window_steps": 4})
    figures = pack_statistics(recipe)
    # Measured: 0.997 packed, 0.47 padded.
    assert figures["fill"] >= 0.98 and figures["padded_fill"] < 0.8
    assert len(figures["visual_tokens_per_row"]) >= 5
    several = sum(count for pictures, count in figures["pictures_per_sample"].items() if int(pictures) > 1)
    assert several / figures["samples"] >= 0.25
    assert figures["rows"] == 32 and "32" in pack_table(figures)


@pytest.mark.parametrize("policy", ["reject", "shrink-image", "truncate-text"])
def test_samples_longer_than_a_row_go_by_the_policy(policy: str, world: Path) -> None:
    """Rows of 24 positions: what is planned is what is collated, and what was left out or shortened is counted."""
    recipe = train_recipe(world, long_samples=policy, packing={"length": 24, "rows_per_step": 6, "window_steps": 3})
    figures = pack_statistics(recipe)
    rejected, shortened = sum(figures["too_long"].values()), sum(figures["shortened"].values())
    assert (rejected > 0 and shortened == 0) if policy == "reject" else shortened > 0
    made = Loader(recipe)
    for step in range(6):
        planned, batches = made.plan.step(step), made.build(step)
        infos = [info for batch in batches for info in batch.rows]
        for info, row in zip(infos, planned.rows(), strict=True):
            assert (info.tokens, info.labels, info.visual) == (row.tokens.sum(), row.labels.sum(), row.visual.sum())
            assert not any("filler" in sample for sample in info.samples), info.samples
