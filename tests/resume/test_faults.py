"""The fault matrix: whatever happens to a rank, whenever, the run ends with the weights of an undisturbed one.

The full form is LOOKSAY_FAULTS=all (minutes); in short some cases, rotated by LOOKSAY_SEED or the day.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.ranks import Nursery
from configs.load import load_recipe
from data_pipeline.stream.tables import open_data
from pretrain.checkpoint.choose import folder_of
from pretrain.checkpoint.ledger import Ledger
from pretrain.checkpoint.proof import prove
from pretrain.checkpoint.reading import weights_sha256
from pretrain.goodput import goodput
from pretrain.run_folder import steps_of
from tests.resume.faults import (
    STEPS,
    Fault,
    Happening,
    new_nursery,
    recipe_tree,
    sends,
    takes_memory_away,
    train,
)

KINDS: dict[str, Fault] = {
    "SIGKILL": sends(signal.SIGKILL),
    "SIGTERM": sends(signal.SIGTERM),
    "SIGUSR1": sends(signal.SIGUSR1),
    "SIGSTOP": sends(signal.SIGSTOP),
    "segfault": sends(signal.SIGSEGV),
    "exception": sends(signal.SIGINT),
    "out of memory": takes_memory_away,
}
MOMENTS = {
    "forward": "forward:7@1",
    "backward": "backward:7@0",
    "update": "update:7@1",
    "data": "data:7@0",
    "during the copy": "copy@1",
    "during save": "save@0",
    "between pieces and commit": "pieces@1",
    "during commit": "commit@0",
    "before the head": "head@0",
    "at the last step": "commit:12@0",
}
CASES = [(kind, moment) for kind in KINDS for moment in MOMENTS]
CHOSEN = os.environ.get("LOOKSAY_FAULTS", "5")


def chosen() -> list[tuple[str, str]]:
    if CHOSEN == "all":
        return CASES
    seed = int(os.environ.get("LOOKSAY_SEED", str(int(time.time() // 86400))))
    picked = np.random.default_rng(seed).permutation(len(CASES))[: int(CHOSEN)]
    return [CASES[n] for n in sorted(picked)]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = new_nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def clean(squares: Path, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of a run that nothing happened to."""
    run = tmp_path_factory.mktemp("clean")
    assert train(nursery, recipe_tree(str(squares)), run) == [0]
    return weights_sha256(folder_of(run, STEPS))


def check(run: Path, clean: str) -> None:
    """The same weights; nothing lost, nothing trained on twice; every second of the run accounted for."""
    assert weights_sha256(folder_of(run, STEPS)) == clean
    recipe = load_recipe(str(run / "config.yaml"))
    ledger = Ledger((folder_of(run, STEPS) / "ledger.bin").read_bytes())
    proof = prove(ledger, open_data(recipe).planner)  # type: ignore[arg-type]
    assert proof.steps == STEPS and proof.problems == []
    spent = goodput(run)
    assert spent is not None and sum(spent["seconds"].values()) == pytest.approx(spent["wall"], rel=0.01)


@pytest.mark.parametrize(("kind", "moment"), chosen())
def test_the_run_ends_as_if_nothing_had_happened(
    kind: str, moment: str, squares: Path, nursery: Nursery, clean: str, tmp_path: Path
) -> None:
    happening = Happening(tmp_path, MOMENTS[moment], KINDS[kind])
    codes = train(nursery, recipe_tree(str(squares)), tmp_path / "run", happening)
    assert happening.done.is_set(), "the moment never came: the test shows nothing"
    assert codes[-1] == 0
    check(tmp_path / "run", clean)


@pytest.mark.parametrize("kind", list(KINDS) if CHOSEN == "all" else ["SIGKILL"])
def test_during_load(kind: str, squares: Path, nursery: Nursery, clean: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = Happening(tmp_path / "first", "forward:7@0", sends(signal.SIGTERM))
    first.folder.mkdir()
    jobs = recipe_tree(str(squares))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.resume.faults.REQUEUE", 0)  # stop after the first start
        train(nursery, jobs, run, first)
    happening = Happening(tmp_path, "load@1", KINDS[kind])
    codes = train(nursery, jobs, run, happening)
    assert happening.done.is_set() and codes[-1] == 0
    check(run, clean)


def test_a_start_whose_time_is_over_ends_with_a_checkpoint(
    squares: Path, nursery: Nursery, clean: str, tmp_path: Path
) -> None:
    """30 seconds are kept for a first checkpoint, so a start that has 30 in all stops at its first step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.resume.faults.REQUEUE", 0)  # one start
        assert train(nursery, recipe_tree(str(squares)), tmp_path, time_limit=30.0) == [75]
    assert steps_of(tmp_path) == [1]
    assert train(nursery, recipe_tree(str(squares)), tmp_path) == [0]
    check(tmp_path, clean)
