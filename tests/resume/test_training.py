"""Trainings that meet something on the way: a gradient that is not finite, a flipped bit, a validation that gets worse."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import NO_REQUEUE
from pretrain.checkpoint.choose import folder_of
from pretrain.checkpoint.ledger import SKIPPED, Ledger
from pretrain.checkpoint.reading import weights_sha256
from pretrain.run_folder import steps_of
from tests.support.pool import Pool

HERE = "tests.resume.training:"
CASES = "tests.pretrain.training_cases:"
PARALLEL = {"parallel": {"zero": 3, "precision": "bf16"}}


def ledger_of(run: Path, step: int) -> Ledger:
    return Ledger((folder_of(run, step) / "ledger.bin").read_bytes())


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_step_that_is_not_finite_changes_nothing_and_is_noted(
    pool: Pool, squares: Path, tmp_path: Path, zero: int
) -> None:
    parts = {"parallel": {"zero": zero, "precision": "fp32"}, "checkpoint": {"every": 1, "keep_last": 9}}
    pool.run(HERE + "spoiled", 2, world=str(squares), run=str(tmp_path), parts=parts, step=4, times=9)
    assert [step.flags for step in ledger_of(tmp_path, 6)] == [0, 0, 0, SKIPPED, 0, 0]
    weights = {step: weights_sha256(folder_of(tmp_path, step)) for step in (3, 4, 5)}
    assert weights[3] == weights[4] != weights[5]


def test_rollback_does_a_step_again_that_was_spoiled_once(pool: Pool, squares: Path, tmp_path: Path) -> None:
    """A fault that does not come again leaves no trace: the weights are the undisturbed run's."""
    parts = PARALLEL | {"checkpoint": {"every": 2, "keep_last": 9}, "optim": {"nonfinite": "rollback"}}
    for name, times in (("clean", 0), ("spoiled", 1)):
        arguments: dict[str, Any] = {"world": str(squares), "run": str(tmp_path / name), "parts": parts}
        pool.run(HERE + "spoiled", 2, **arguments, step=4, times=times)
    assert weights_sha256(folder_of(tmp_path / "spoiled", 6)) == weights_sha256(folder_of(tmp_path / "clean", 6))
    assert [step.flags for step in ledger_of(tmp_path / "spoiled", 6)] == [0] * 6
    assert [line["step"] for line in lines_of(tmp_path / "spoiled")] == [1, 2, 3, 4, 5, 6], "what is undone is not said"


def test_rollback_skips_a_step_that_is_spoiled_again(pool: Pool, squares: Path, tmp_path: Path) -> None:
    parts = PARALLEL | {"checkpoint": {"every": 2}, "optim": {"nonfinite": "rollback"}}
    pool.run(HERE + "spoiled", 2, world=str(squares), run=str(tmp_path), parts=parts, step=4, times=9)
    assert [step.flags for step in ledger_of(tmp_path, 6)] == [0, 0, 0, SKIPPED, 0, 0]


def test_a_rank_that_cannot_write_leaves_nobody_waiting(pool: Pool, squares: Path, tmp_path: Path) -> None:
    """One checkpoint fails on one rank while the next is due on all: it is given up together and training goes on."""
    parts = PARALLEL | {"checkpoint": {"every": 1, "keep_last": 9}}
    found = pool.run(HERE + "refused_writes", 2, world=str(squares), run=str(tmp_path), parts=parts, times=1)
    assert [rank["code"] for rank in found] == [0, 0]
    assert steps_of(tmp_path) == [2, 3, 4, 5, 6]


def test_checkpoints_that_fail_again_and_again_end_the_run(pool: Pool, squares: Path, tmp_path: Path) -> None:
    parts = PARALLEL | {"checkpoint": {"every": 1, "keep_last": 9}}
    for rank in pool.run(HERE + "refused_writes", 2, world=str(squares), run=str(tmp_path), parts=parts, times=99):
        assert rank["code"] == NO_REQUEUE and rank["said"].startswith("3 checkpoints in a row could not be written to ")
    assert steps_of(tmp_path) == []


@pytest.mark.parametrize(("zero", "tp"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("where", ["weight", "master", "step"])
def test_a_flipped_bit_is_found_and_named(pool: Pool, zero: int, tp: int, where: str) -> None:
    for said in pool.run(HERE + "audited", 2, tp, zero=zero, where=where):
        assert said is not None and said.startswith("silent corruption at step 3 on rank ")
        assert "decoder.layers.1.norm1.weight" in said


@pytest.mark.parametrize(("zero", "tp"), [(3, 1), (1, 1), (3, 2)])
def test_an_audit_changes_nothing(pool: Pool, zero: int, tp: int) -> None:
    assert pool.run(HERE + "same_after_audit", 2, tp, zero=zero) == [True, True]


def test_an_audited_run_ends_with_the_same_weights(pool: Pool, squares: Path, tmp_path: Path) -> None:
    for name, every in (("plain", 0), ("audited", 2)):
        parts = PARALLEL | {"checkpoint": {"every": 2, "audit_every": every}}
        pool.run(CASES + "trained", 2, world=str(squares), run=str(tmp_path / name), parts=parts)
    assert weights_sha256(folder_of(tmp_path / "audited", 6)) == weights_sha256(folder_of(tmp_path / "plain", 6))


def test_the_best_is_kept_and_a_run_that_gets_worse_ends(pool: Pool, squares: Path, tmp_path: Path) -> None:
    """A rate at which held-out loss grows again: the run ends two validations after its best, which stays."""
    parts: dict[str, Any] = {
        "parallel": {"zero": 0, "precision": "fp32"},
        "stage": {"steps": 60, "train": {"projector": 0.05, "decoder": 0.05}},
        "checkpoint": {"every": 2, "keep_last": 1, "keep_best": True},
        "evaluate": {"source": f"{squares}/captioned", "every": 2, "stop_after": 2, "pictures": 0},
        "log": {"to": []},
    }
    pool.run(CASES + "trained", 1, world=str(squares), run=str(tmp_path), parts=parts)
    losses = {line["step"]: line["validation"]["loss"] for line in lines_of(tmp_path) if "validation" in line}
    best, last = min(losses, key=losses.__getitem__), max(losses)
    assert last == best + 4 < 60
    assert steps_of(tmp_path) == ([best, last] if best else [last])
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "done"
