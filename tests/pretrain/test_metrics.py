"""What a run says of itself: metrics.jsonl, TensorBoard, wandb, status.json, useful FLOPs, and the loss rule."""

import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.errors import NO_REQUEUE, REQUEUE, UserError
from configs.model import ModelConfig
from data_pipeline.stream.batch import NO_TARGET, Batch, Vision
from pretrain.loss import COUNTS, StepCounts, micro_loss
from pretrain.metrics import MetricsLog, useful_flops, write_status
from pretrain.run_folder import steps_of
from tests.pretrain.training_cases import small_recipe
from tests.support.pool import Pool
from tests.support.worlds import batch_of, rows_of

CASES = "tests.pretrain.training_cases:"
PARTS = ("data", "inputs", "forward", "backward", "checkpoint", "step", "wait")
RATES = {"projector": 0.004, "decoder": 0.002}
STAGE = {"stage": {"train": RATES}, "optim": {"warmup_steps": 2, "schedule": "linear"}}
POSITIONS = 4 * 128


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def trained_lines(run: Path) -> list[dict[str, Any]]:
    return [line for line in lines_of(run) if "loss" in line]


def board_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) as TensorBoard's own reader gives them."""
    reader = EventAccumulator(str(run / "tb"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def status_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


@pytest.fixture(scope="module")
def parts(squares: Path) -> dict[str, Any]:
    held_out = {"source": f"{squares}/asked", "samples": 4, "pictures": 1, "every": 3}
    return {**STAGE, "evaluate": held_out, "checkpoint": {"every": 100}, "parallel": {"zero": 0}}


@pytest.fixture(scope="module")
def run(pool: Pool, squares: Path, parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data-parallel ranks: stopped at step 3, then on to step 6."""
    folder = tmp_path_factory.mktemp("metrics") / "run"
    for until, state in ((3, "stopped"), (None, "done")):
        pool.run(CASES + "trained", 2, world=str(squares), run=str(folder), parts=parts, until=until)
        assert (status_of(folder)["state"], status_of(folder)["step"]) == (state, until or 6)
    return folder


def test_every_step_has_its_line(run: Path) -> None:
    lines = trained_lines(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line, scale in zip(lines, (0.5, 1.0, 1.0, 0.75, 0.5, 0.25), strict=True):
        assert line["lr"] == pytest.approx({name: rate * scale for name, rate in RATES.items()})
        assert math.isfinite(line["loss"]) and 0 < line["grad_norm"] < 100
        assert 0 < line["label_tokens"] < line["real_tokens"] <= POSITIONS and line["images"] > 0
        assert line["fill"] == pytest.approx(line["real_tokens"] / POSITIONS)
        assert line["fillers"] == 0 and 0 < line["visual_tokens"] < line["real_tokens"]
        seconds = dict(line["seconds"])
        total = seconds.pop("total")
        assert set(seconds) == set(PARTS) and min(seconds.values()) >= 0
        assert sum(seconds.values()) == pytest.approx(total, abs=1e-4)  # parts are rounded to 1e-5 s
        assert line["tokens_per_s"] == pytest.approx(line["real_tokens"] / total, rel=1e-2)
        assert 0 < line["mfu"] < 1 and len(line["ids_hash"]) == 64
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert len({line["ids_hash"] for line in lines}) == 6


def test_validation_has_its_lines_and_answers(run: Path) -> None:
    assert [line["step"] for line in lines_of(run) if "validation" in line] == [0, 3, 6]
    assert all(
        line["validation"]["loss"] > 0 < line["validation"]["tokens"] for line in lines_of(run) if "loss" not in line
    )
    answers = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [answer["step"] for answer in answers] == [0, 3, 6]
    assert len({answer["key"] for answer in answers}) == 1, "the same picture over time"


def test_the_board_shows_what_the_lines_say(run: Path) -> None:
    """Values pass through fp32. Step 3, where the run was taken up again, is of the next test."""
    board, lines = board_of(run), trained_lines(run)
    assert {"loss", "tokens_per_s", "fill", "label_tokens", "grad_norm", "mfu", "validation/loss"} <= board.keys()
    assert {"lr/projector", "lr/decoder", "seconds/total", *(f"seconds/{part}" for part in PARTS)} <= board.keys()
    assert [step for step, _ in board["goodput/ratio"]] == sorted({step for step, _ in board["goodput/ratio"]})
    for tag, values in board.items():
        if tag.startswith("goodput/"):
            continue  # of the timeline: tests/resume/test_goodput.py
        name, _, key = tag.partition("/")
        said = {line["step"]: line[name][key] if key else line[name] for line in lines_of(run) if name in line}
        assert dict(values) == pytest.approx({step: said[step] for step, _ in values}, rel=1e-6), tag
    assert {step for step, _ in board["loss"]} >= {line["step"] for line in lines} - {3}


def test_the_board_keeps_the_step_it_went_on_from(run: Path) -> None:
    assert [step for step, _ in board_of(run)["loss"]] == [1, 2, 3, 4, 5, 6]


def test_counts_do_not_depend_on_the_ranks(
    pool: Pool, squares: Path, parts: dict[str, Any], run: Path, tmp_path: Path
) -> None:
    """One process against two, fp32: measured equal to 3e-8; a rank's half left out moves the second loss by 2e-3, a
    factor of DP halves the norm."""
    pool.run(CASES + "trained", 1, world=str(squares), run=str(tmp_path), parts=parts, until=2)
    for alone, both in zip(trained_lines(tmp_path), trained_lines(run)[:2], strict=True):
        for field in ("label_tokens", "real_tokens", "visual_tokens", "images", "fill", "fillers", "ids_hash", "lr"):
            assert alone[field] == both[field], field
        for field in ("loss", "grad_norm"):
            assert alone[field] == pytest.approx(both[field], rel=1e-6), field


def test_nothing_is_said_twice(pool: Pool, squares: Path, parts: dict[str, Any], run: Path, tmp_path: Path) -> None:
    """A run that was killed before its first checkpoint starts anew in the same folder; the last step is validated."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints")
    pool.run(CASES + "trained", 1, world=str(squares), run=str(folder), parts=parts, until=2)
    assert [line["step"] for line in lines_of(folder)] == [0, 1, 2, 2]
    assert [json.loads(line)["step"] for line in (folder / "predictions.jsonl").read_text().splitlines()] == [0, 2]


def written(folder: Path, steps: range, resume: int, to: tuple[str, ...] = ("tensorboard",)) -> None:
    log = MetricsLog(folder, small_recipe("nowhere", log={"to": to}), resume)
    for step in steps:
        log.write({"step": step, "loss": 0.5 * step, "by": f"start at {resume}"})
    log.close()


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    written(tmp_path, range(1, 6), 0)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')  # killed while it wrote
    written(tmp_path, range(4, 8), 3)
    expected = [(step, f"start at {0 if step < 4 else 3}") for step in range(1, 8)]
    assert [(line["step"], line["by"]) for line in lines_of(tmp_path)] == expected
    board = board_of(tmp_path)["loss"]
    assert [step for step, _ in board if step > 3] == [4, 5, 6, 7] and (1, 0.5) in board


def test_a_line_torn_at_its_newline(tmp_path: Path) -> None:
    written(tmp_path, range(1, 4), 0)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    written(tmp_path, range(4, 5), 3)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4]


def test_status_says_where_the_run_is(tmp_path: Path) -> None:
    write_status(tmp_path, "running", 3, 9, reason="x")
    found = status_of(tmp_path)
    assert found.pop("time") > 1e9
    assert found == {"state": "running", "step": 3, "steps": 9, "reason": "x"}
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_preempted_run_says_so(pool: Pool, squares: Path, tmp_path: Path) -> None:
    [result] = pool.run(CASES + "trained", 1, world=str(squares), run=str(tmp_path), parts={}, signal_at=1)
    assert result["code"] == REQUEUE
    assert status_of(tmp_path)["state"] == "preempted"


def test_a_loss_that_is_no_number_ends_the_run(pool: Pool, squares: Path, tmp_path: Path) -> None:
    parts = {"stage": {"train": {"decoder": 1e30}}, "checkpoint": {"every": 1}, "optim": {"nonfinite": "stop"}}
    for result in pool.run(CASES + "trained", 2, world=str(squares), run=str(tmp_path), parts=parts):
        assert result["did"] == 2 and result["code"] == NO_REQUEUE
        assert result["refused"].startswith(
            "the gradient of step 2 is not finite (its loss is nan): lower the learning"
        )
        assert "\n" not in result["refused"]
    assert (status_of(tmp_path)["state"], steps_of(tmp_path)) == ("failed", [1])
    assert [line["step"] for line in lines_of(tmp_path)] == [1]


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_a_flood_of_them_ends_a_run_that_skips_them(pool: Pool, squares: Path, tmp_path: Path, zero: int) -> None:
    parallel = {"zero": zero, "precision": "fp32"}
    parts = {"stage": {"train": {"decoder": 1e30}}, "optim": {"max_nonfinite": 3}, "parallel": parallel}
    for result in pool.run(CASES + "trained", 2, world=str(squares), run=str(tmp_path), parts=parts):
        assert result["did"] == 4 and result["code"] == NO_REQUEUE
        assert result["refused"].startswith(
            "3 of the last 4 steps had gradients that are not finite, the last was step 4"
        )


def test_a_step_whose_samples_all_failed_is_passed(pool: Pool, squares: Path, tmp_path: Path) -> None:
    assert pool.run(CASES + "barren", 2, world=str(squares), run=str(tmp_path)) == [6, 6]
    second = trained_lines(tmp_path)[1]
    assert (second["loss"], second["label_tokens"], second["grad_norm"]) == (0.0, 0, 0.0)
    assert all(line["loss"] > 0 for line in trained_lines(tmp_path) if line["step"] != 2)


# ---- wandb ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "")  # so that what the code sets is undone
    del os.environ["WANDB_MODE"]


def test_wandb_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_mode: None) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"log\.to has wandb, which is not installed: pip install looksay\[wandb\]"):
        written(tmp_path, range(1), 0, to=("wandb",))


def test_wandb_writes_without_a_network(tmp_path: Path, no_mode: None) -> None:
    pytest.importorskip("wandb")
    written(tmp_path, range(1, 4), 0, to=("tensorboard", "wandb"))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(lines_of(tmp_path)) == 3 and len(board_of(tmp_path)["loss"]) == 3


# ---- arithmetic ----------------------------------------------------------------------------------------------------


TINY = {
    "encoder": {"type": "native_vit", "patch": 2, "width": 8, "depth": 1, "heads": 2, "mlp_width": 16},
    "projector": {"type": "pixel_shuffle_mlp", "factor": 2, "hidden": 6},
    "decoder": {"layers": 2, "width": 8, "heads": 2, "kv_heads": 1, "mlp_width": 16},
}
TEXT = 6 * 2 * (2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16) * 8 + 2 * 12 * 8 * (3 * 4 // 2 + 5 * 6 // 2) + 6 * 8 * 10 * 4
"""Two layers' matrices for 8 tokens; attended pairs of segments of 3 and 5; the head of 10 words for 4 labels."""


def tiny_batch() -> Batch:
    """A row of 16 positions: segments of 3 and 5 tokens, 2 visual tokens of 4 patches each, 4 labels."""
    targets = np.full((1, 16), NO_TARGET, np.int64)
    targets[0, [1, 4, 5, 6]] = 1
    zeros = np.zeros((1, 16), np.int64)
    vision = Vision(np.array([0, 3]), np.ones((2, 2), np.int32), patch_segments=np.array([0, 4, 8]))
    segments = np.array([[0, 0, 3], [3, 3, 8]])
    return Batch(zeros, targets, zeros.astype(np.float32), np.stack([zeros] * 3), segments, vision, 4.0)


def test_useful_flops_by_hand() -> None:
    model = ModelConfig.model_validate(TINY)
    projector = 6 * 2 * (8 * 4 * 6 + 6 * 8)
    encoder = 6 * (3 * 4 * 8 + 4 * 8 * 8 + 2 * 8 * 16) * 8 + 12 * 8 * (4 * 4 + 4 * 4)
    assert (TEXT, projector, encoder) == (61248, 2880, 32256)
    assert useful_flops(model, 10, tiny_batch(), encoder_runs=True) == TEXT + projector + encoder
    assert useful_flops(model, 10, tiny_batch(), encoder_runs=False) == TEXT + projector
    blind = replace(tiny_batch(), vision=Vision(np.zeros(0, np.int64), np.zeros((0, 2), np.int32)))
    assert useful_flops(model, 10, blind, encoder_runs=True) == TEXT


@pytest.mark.parametrize(
    ("projector", "weights"),
    [({"type": "linear"}, 8 * 8), ({"type": "mlp", "hidden": 6, "depth": 3}, 8 * 6 + 6 * 6 + 6 * 8)]
    + [({"type": "glu", "hidden": 12}, 8 * 8 + 3 * 8 * 12), ({"type": "pixel_shuffle_linear"}, 4 * 8 * 8)],
)
def test_useful_flops_of_other_projectors(projector: dict[str, Any], weights: int) -> None:
    model = ModelConfig.model_validate({**TINY, "projector": projector, "resolution": {"type": "square", "size": 4}})
    assert useful_flops(model, 10, tiny_batch(), encoder_runs=False) == TEXT + 6 * 2 * weights


def test_a_step_without_labels_has_no_loss() -> None:
    logits = torch.ones(3, requires_grad=True)
    loss = micro_loss((logits * 0.0).sum(), 0.0, 2)
    loss.backward()
    assert loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()


def test_the_loss_is_a_sum_over_n() -> None:
    """Averaged over 2 ranks and summed over 3 micro-steps of 1 to 6 labels it is the mean over all 21."""
    losses = [torch.arange(1.0, n + 1) for n in range(1, 7)]
    given = sum(float(micro_loss(each.sum(), 21.0, 2)) for each in losses) / 2
    assert given == pytest.approx(float(torch.cat(losses).mean()), rel=1e-6)


def test_counts_are_sums_over_micro_steps_and_ranks(pool: Pool) -> None:
    """TP ranks hold the same rows and count once; extras (flags) are summed over all ranks."""
    whole = batch_of(rows_of("mixed"))
    for totals, extras in pool.run(CASES + "summed", 4, 2):
        assert extras == [4.0, 6.0]
        assert totals == {
            "loss_sum": 2.0 * whole.label_tokens,
            "weight": whole.label_tokens,
            "label_tokens": whole.label_tokens,
            "real_tokens": whole.real_tokens,
            "visual_tokens": len(whole.vision.slots),
            "images": len(whole.vision.grids),
            "positions": 8 * 64,
            "flops": 1000.0 * 24,
            "fillers": 0,
            "samples": 24,
        }


def test_counts_are_sums_over_rows() -> None:
    fillers = [replace(ready, info={"key": "1", "filler": "bad"}, learn=False) for ready in rows_of("uneven")[1]]
    counts = StepCounts.empty()
    for rows in ([fillers, rows_of("uneven")[2]], [[], fillers]):
        batch = batch_of(rows)
        counts.add(batch, torch.tensor(1.5), torch.tensor(float(batch.label_tokens)), 0.0)
    found = dict(zip(COUNTS, counts.values.tolist(), strict=True))
    once, other = batch_of([fillers]), batch_of([rows_of("uneven")[2]])
    assert found["loss_sum"] == 3.0 and found["fillers"] == 2 * len(fillers)
    assert found["visual_tokens"] == 2 * len(once.vision.slots) + len(other.vision.slots)
    assert found["label_tokens"] == found["weight"] == other.label_tokens > 0 == once.label_tokens
