"""The plan: every sample once an epoch, the same rows whoever asks, a small state that any step follows from."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from data_pipeline.stream.plan.planner import Planner
from data_pipeline.stream.plan.rows import Drawn, PlannedStep
from tests.data_pipeline.stream.plan.conftest import Table, lengths, planner


def two(**more: Any) -> Planner:
    tables = (Table("a", lengths(611)), Table("b", lengths(373, 1), shards=1, tile=0))
    return planner(*tables, weights=lambda step: [1.0, 2.0], **more)


def ids(samples: Drawn) -> list[tuple[int, int, int]]:
    return list(zip(samples.source.tolist(), samples.epoch.tolist(), samples.index.tolist(), strict=True))


def same(one: PlannedStep, other: PlannedStep) -> bool:
    return one.to_bytes() == other.to_bytes()


@pytest.mark.parametrize("max_images", [None, 3])
def test_every_sample_once_an_epoch_over_many_windows(max_images: int | None) -> None:
    """Emitted and carried together are each source's epochs from the start, without a gap or a repeat."""
    made = two(settings={"max_images_per_row": max_images})
    seen = Counter(draw for step in range(144) for draw in ids(made.step(step).samples))
    start = made.start_of(18)
    waiting = Counter(
        zip(start.carry.source.tolist(), start.carry.epoch.tolist(), start.carry.index.tolist(), strict=True)
    )
    assert max((seen + waiting).values()) == 1, "a sample came twice in an epoch"
    for source, cursor in enumerate(start.cursors):
        size = len(made.tables[source].tokens)  # type: ignore[attr-defined]
        found = [(e, i) for s, e, i in (seen + waiting) if s == source]
        assert cursor.epoch >= 1, "the test does not reach a second epoch"
        assert len(found) == cursor.drawn, "a drawn sample was dropped"
        for epoch in range(cursor.epoch):
            assert sorted(i for e, i in found if e == epoch) == list(range(size))


def test_nothing_starves() -> None:
    """No sample moves more than two windows from where it was drawn."""
    for seed in range(3):
        made = planner(
            Table("a", lengths(2000, seed)),
            settings={"rows_per_step": 4, "window_steps": 4, "max_images_per_row": 3},
            seed=seed,
        )
        placed = {draw: window for window in range(30) for draw in ids(made.window(window).samples)}
        for window in range(30):
            carry = made.start_of(window).carry
            assert carry.age.max(initial=0) <= 2
            for draw, age in zip(
                zip(*(c.tolist() for c in (carry.source, carry.epoch, carry.index)), strict=True),
                carry.age.tolist(),
                strict=True,
            ):
                assert placed.get(draw, window) - (window - age) <= 2


def test_any_step_follows_from_its_windows_state(tmp_path: Path) -> None:
    """restore(state(n)) in a new planner, through JSON, gives the steps of the undisturbed one; so do seeks and the log."""
    log = str(tmp_path / "plan.log")
    straight = two(log=log, write=True)
    wanted = [straight.step(step) for step in range(80)]
    for start in (0, 1, 7, 8, 17, 79):
        fresh = two()
        fresh.restore(json.loads(json.dumps(straight.state(start))))
        assert all(same(fresh.step(step), wanted[step]) for step in range(start, 80))
    assert same(two().step(23), wanted[23]), "planning forward gives another step"
    assert same(straight.step(2), wanted[2]) and same(straight.step(77), wanted[77]), "a seek back is another step"
    reader, planned = two(log=log), []
    plan = reader._plan
    reader._plan = lambda number, start: planned.append(number) or plan(number, start)  # type: ignore
    random = np.random.default_rng(0)
    for step in random.integers(0, 80, 25).tolist():
        planned.clear()
        assert same(reader.step(step), wanted[step])
        assert planned in ([], [step // 8]), "a seek planned more than its own window"


def test_a_run_that_is_killed_and_restarted_logs_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    whole = two(log=str(tmp_path / "whole"), write=True)
    whole.step(79)
    first = two(log=str(tmp_path / "cut"), write=True)
    first.step(30)
    with (tmp_path / "cut").open("ab") as stream:
        stream.write(b'{"window":5,"fing')
    again = two(log=str(tmp_path / "cut"), write=True)
    again.step(79)
    lines = [line for line in (tmp_path / "cut").read_bytes().split(b"\n") if not line.endswith(b'"fing')]
    assert lines == (tmp_path / "whole").read_bytes().split(b"\n")


def test_the_state_is_small() -> None:
    """Rows of 2048 with windows of 4096 of them, eight sources: a job's state is at most 8 KB."""
    tables = [Table(f"s{n}", lengths(20_000, n, 20, 900)) for n in range(8)]
    settings = {"length": 2048, "rows_per_step": 64, "window_steps": 64, "chunk": 64}
    made = planner(*tables, settings=settings)
    sizes = [len(json.dumps(made.state(step))) for step in (0, 64, 128)]
    assert max(sizes) <= 8192, sizes


def test_seed_lengths_and_weights_change_the_plan_and_are_named() -> None:
    base = two()
    others = {
        "seed": two(seed=1),
        "packing": two(settings={"window_steps": 5}),
        "b: dataset": planner(
            Table("a", lengths(611)), Table("b", lengths(374, 1), shards=1, tile=0), weights=lambda s: [1.0, 2.0]
        ),
    }
    for name, other in others.items():
        assert other.fingerprint != base.fingerprint
        # One sample more need not change the first window.
        assert name == "b: dataset" or not same(other.step(0), base.step(0))
        with pytest.raises(UserError, match=f"changed since the checkpoint was written .{name}: was .*start_from"):
            other.restore(base.state(8))
    assert two().fingerprint == base.fingerprint


def test_a_damaged_state_is_refused_in_a_sentence() -> None:
    state = two().state(8)
    with pytest.raises(UserError, match="take an older checkpoint"):
        two().restore({**state, "carry": state["carry"][:-7]})


def test_rows_hold_what_they_say_and_are_full() -> None:
    made = two()
    for step in (made.step(n) for n in range(24)):
        assert len(step) == 8 and step.starts[-1] == len(step.samples)
        assert step.denominator == step.samples.labels.sum()
        assert all(0 < row.tokens.sum() <= 256 for row in step.rows())
        fills = [row.tokens.sum() / 256 for row in step.rows()]
        assert np.mean(fills) > 0.9, fills  # windows of 64 rows and samples of up to a whole row


def test_a_step_travels_as_bytes() -> None:
    step = two().step(3)
    again = PlannedStep.from_bytes(step.to_bytes())
    assert again.step == 3 and again.denominator == step.denominator
    assert np.array_equal(again.starts, step.starts) and ids(again.samples) == ids(step.samples)
    assert again.samples.key.tolist() == step.samples.key.tolist()


def test_what_cannot_be_drawn_is_counted_and_never_drawn() -> None:
    tokens = lengths(50)
    tokens[[3, 7]], tokens[9] = -1, 0
    made = planner(Table("a", tokens), settings={"rows_per_step": 2, "window_steps": 2})
    drawn = {i for step in range(8) for _, _, i in ids(made.step(step).samples)}
    assert drawn and not {3, 7, 9} & drawn
    with pytest.raises(UserError, match=r"source a: none of its 50 samples can be drawn .50 longer than a row"):
        planner(Table("a", np.full(50, -1))).step(0)
    with pytest.raises(UserError, match="none of its 0 samples"):
        planner(Table("a", [])).step(0)


@pytest.mark.parametrize("mixture", ["samples", "tokens"])
def test_weights_hold_in_every_window_and_follow_their_schedule(mixture: str) -> None:
    """What is drawn of a source between any two windows is its share, to less than two (longest) samples."""
    tables = (
        Table("short", lengths(3000, 0, 10, 40)),
        Table("long", lengths(3000, 1, 100, 240)),
        Table("text", lengths(900, 2), tile=0),
    )
    made = planner(*tables, weights=lambda step: [1, 1, 2] if step < 32 else [4, 1, 0], mixture=mixture)
    starts = [made.start_of(n) for n in range(9)]
    unit = 1 if mixture == "samples" else 240
    for start in starts:
        assert np.abs(start.credit).max() < unit
    if mixture == "samples":
        drawn = np.array([[cursor.drawn for cursor in start.cursors] for start in starts])
        for n in range(8):
            new = drawn[n + 1] - drawn[n]
            wanted = np.array([0.25, 0.25, 0.5] if n < 4 else [0.8, 0.2, 0.0]) * new.sum()
            assert np.abs(new - wanted).max() < 2, (n, new, wanted)


def test_the_hash_of_a_steps_ids_says_what_it_holds() -> None:
    assert two().ids_hash(5) == two().ids_hash(5) != two().ids_hash(6)
    assert two(seed=1).ids_hash(5) != two().ids_hash(5)
