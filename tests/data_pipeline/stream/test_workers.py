"""Workers and the planner's process: the same stream for any number of them, and nothing hangs when one is gone.

Full form of the property test: LOOKSAY_TRIPLES=200.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from configs.errors import RunError, UserError
from data_pipeline.stream import loader as loader_module
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.loader import Loader, usual_workers
from data_pipeline.stream.prefetch.pool import InChild
from data_pipeline.stream.service.client import PlanClient, PlanProcess
from tests.data_pipeline.stream.conftest import train_recipe
from tests.data_pipeline.stream.test_loader import flip, rows_of, same
from tests.support.datasets import samples, write_dataset

TRIPLES = int(os.environ.get("LOOKSAY_TRIPLES", "8"))
STEPS = 9


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A mixture of two sources with bad pictures and bad text in both."""
    folder = Path(shutil.copytree(world, tmp_path_factory.mktemp("damaged") / "world"))
    Loader(train_recipe(folder)).build(0)  # counts are made while it is whole
    for source, shard, row, column in (
        ("captions", "00000", 3, "image_offset"),
        ("captions", "00001", 7, "json_offset"),
        ("captions", "00003", 0, "image_offset"),
        ("talks", "00000", 11, "json_offset"),
        ("talks", "00001", 2, "image_offset"),
    ):
        flip(folder / source, shard, row, column)
    return folder


@pytest.fixture(scope="module")
def reference(damaged: Path) -> dict[int, dict]:  # type: ignore[type-arg]
    alone = Loader(train_recipe(damaged, max_bad_samples=1.0))
    return {step: rows_of(alone.build(step)) for step in range(STEPS)}


def loaders(damaged: Path, size: int, workers: int) -> list[Loader]:
    recipe = train_recipe(damaged, rows_per_rank=1, max_bad_samples=1.0)
    return [Loader(recipe, dp_rank=rank, dp_size=size, workers=workers) for rank in range(size)]


@pytest.mark.parametrize("number", range(TRIPLES))
def test_any_ranks_workers_and_stop_give_the_same_stream(number: int, damaged: Path, reference: dict) -> None:  # type: ignore[type-arg]
    """Mixture, packing, bad samples; stopped anywhere and taken up by another number of ranks and workers."""
    random = np.random.default_rng(number)
    first, then = ((int(random.choice([1, 2, 4, 8])), int(random.integers(0, 4))) for _ in range(2))
    if TRIPLES < 100:  # processes take long to start: the short form has few
        first, then = (first[0], first[1] if first[0] == 1 else 0), (then[0], then[1] if then[0] == 1 else 0)
    stop = int(random.integers(0, STEPS))
    state = None
    for (size, workers), steps in ((first, range(stop)), (then, range(stop, STEPS))):
        ranks = loaders(damaged, size, workers)
        try:
            for made in ranks:
                if state is not None:
                    made.load_state_dict(state)
            for step in steps:
                batches = [batch for made in ranks for batch in made.step(step)]
                found = rows_of(batches)
                assert sorted(found) == list(range(6)), "rows were lost or repeated"
                assert found == reference[step], f"step {step} at {size} ranks, {workers} workers"
            state = ranks[0].state_dict(stop)
        finally:
            for made in ranks:
                made.close()


def test_bad_samples_are_among_them(reference: dict) -> None:  # type: ignore[type-arg]
    fillers = [
        s["filler"] for rows in reference.values() for info, *_ in rows.values() for s in info.samples if "filler" in s
    ]
    assert any(".tar" in text and "bytes" in text for text in fillers) and len(fillers) >= 3


@pytest.fixture
def loader(world: Path) -> Iterator[Loader]:
    made = Loader(train_recipe(world), workers=2)
    yield made
    made.close()


def test_batches_of_workers_are_those_made_here(world: Path, loader: Loader) -> None:
    """Bit for bit, in order, and after a seek; also pictures of a CNN, which are lists."""
    for cnn in (False, True):
        recipe = train_recipe(world, cnn=cnn)
        here, there = Loader(recipe), Loader(recipe, workers=2)
        for step in (0, 1, 2, 7, 8, 1):
            assert same(there.step(step), here.build(step)), f"step {step}"
        there.close()


def child_of(loader: Loader, number: int) -> InChild:
    assert loader._pool is not None
    worker = loader._pool.workers[number]
    assert isinstance(worker, InChild)
    return worker


def test_a_killed_worker_is_replaced(world: Path, loader: Loader) -> None:
    wanted = Loader(train_recipe(world))
    loader.step(0)
    for step in range(1, 6):
        child_of(loader, step % 2).child.process.kill()
        assert same(loader.step(step), wanted.build(step))


def test_a_worker_that_dies_each_time_ends_the_run(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    loader.step(0)
    for number in range(2):
        worker = child_of(loader, number)
        start = worker._start

        def dying(start=start):  # type: ignore[no-untyped-def]
            child = start()
            child.process.kill()
            return child

        monkeypatch.setattr(worker, "_start", dying)
        worker.child.process.kill()
    with pytest.raises(
        RunError, match=r"reading worker \d was ended by SIGKILL .* in step \d+ micro-step \d+, 3 times"
    ):
        for step in range(1, 9):
            loader.step(step)


def test_a_hung_worker_is_killed_and_its_work_done(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "MICRO_STEP_SECONDS", 3.0)
    recipe = train_recipe(world, read={"retry_seconds": 1.0})
    wanted, made = Loader(recipe), Loader(recipe, workers=2)
    made.step(0)
    os.kill(child_of(made, 0).child.process.pid, signal.SIGSTOP)
    for step in range(1, 6):
        assert same(made.step(step), wanted.build(step))
    made.close()


def test_nothing_is_left_when_it_is_closed(world: Path) -> None:
    made = Loader(train_recipe(world), workers=2)
    made.step(0)
    processes = [child_of(made, number).child.process for number in range(2)]
    made.close()
    assert all(process.poll() is not None for process in processes)


def test_an_error_of_a_worker_keeps_its_sentence(world: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(world, tmp_path / "world"))
    made = Loader(train_recipe(copy), workers=1)
    made.step(0)
    for number in range(5):
        (copy / "captions" / f"{number:05d}.tar").unlink(missing_ok=True)
    made.close()
    again = Loader(train_recipe(copy), workers=1)
    with pytest.raises(RunError, match=r"\.tar is gone: the dataset changed under the run"):
        again.step(0)
    again.close()


@pytest.mark.parametrize(
    ("cores", "ranks", "cached", "wanted"), [(2, 2, False, 0), (16, 2, False, 4), (4, 1, False, 3), (16, 1, True, 0)]
)
def test_workers_follow_the_cores(
    cores: int, ranks: int, cached: bool, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert usual_workers(ranks, cached) == wanted


# ---- shapes of datasets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "shard_size"), [(13, 13), (13, 1), (11, 2), (40, 7)])
def test_any_shape_of_dataset_trains_all_ranks_alike(count: int, shard_size: int, world: Path, tmp_path: Path) -> None:
    """One shard, as many as samples, a prime number of them, fewer than ranks: same steps, nothing lost or repeated."""
    write_dataset(tmp_path / "captions", samples(count, 9), shard_size)
    shutil.copytree(world / "tokens", tmp_path / "tokens")
    recipe = train_recipe(tmp_path, rows_per_rank=1, sources=[{"path": str(tmp_path / "captions")}])
    ranks = [Loader(recipe, dp_rank=rank, dp_size=4) for rank in range(4)]
    drawn: list[tuple[int, str]] = []
    for step in range(12):
        parts = [made.build(step) for made in ranks]
        assert {len(part) for part in parts} == {2}
        assert sorted(rows_of([batch for part in parts for batch in part])) == list(range(6))
        drawn += [(s["epoch"], s["key"]) for part in parts for b in part for row in b.rows for s in row.samples]
    assert len(drawn) == len(set(drawn)), "a sample came twice in an epoch"


# ---- the planner's process -------------------------------------------------------------------------------------


def test_the_planners_process_gives_the_plan(world: Path, tmp_path: Path) -> None:
    recipe, log = train_recipe(world), tmp_path / "plan.log"
    wanted = Loader(recipe)
    process = PlanProcess(recipe, str(log), write=True)
    first = Loader(recipe, plan=process.client())
    second = Loader(recipe, dp_rank=1, dp_size=2, plan=PlanClient(process.address, process.fingerprint))
    for step in (0, 1, 5, 2, 20):
        assert same(first.step(step), wanted.build(step))
        assert second.plan.step(step).to_bytes() == wanted.plan.step(step).to_bytes()
        assert first.ids_hash(step) == wanted.ids_hash(step)
    state = first.state_dict(7)
    assert state == wanted.state_dict(7)
    second.load_state_dict(state)
    with pytest.raises(UserError, match="changed since the checkpoint"):
        second.load_state_dict({"plan": {**state["plan"], "identity": {"seed": "9"}}})
    assert log.read_text().count("\n") >= 2
    child = process._child.process
    first.close()
    assert second.plan.step(21).to_bytes() == wanted.plan.step(21).to_bytes(), "the rank that started it is done first"
    second.close()
    child.wait(10)


def test_a_planner_that_is_gone_is_said_at_once(world: Path) -> None:
    process = PlanProcess(train_recipe(world))
    made = Loader(train_recipe(world), plan=process.client())
    made.step(0)
    process._child.process.kill()
    with pytest.raises(RunError, match="the planner process of this node is gone"):
        for step in range(1, 24):
            made.step(step)
    made.close()


def test_an_error_of_the_planner_keeps_its_sentence(world: Path) -> None:
    with pytest.raises(UserError, match="source talks: none of its 50 samples can be drawn"):
        process = PlanProcess(train_recipe(world, packing={"length": 8, "rows_per_step": 6, "window_steps": 3}))
        made = Loader(train_recipe(world), plan=process.client())
        try:
            made.plan.step(0)
        finally:
            made.close()


def test_batches_travel_with_nothing_left_behind(world: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = Loader(train_recipe(world), workers=1)
    batches: list[Batch] = [batch for step in range(6) for batch in made.step(step)]
    assert batches[0].ids.flags.writeable  # as torch wants them
    made.close()
    del batches, made
    assert len(os.listdir("/proc/self/fd")) <= before + 2
