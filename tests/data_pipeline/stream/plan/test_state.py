"""A window's start survives JSON, stays small, and is found again in plan.log."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from data_pipeline.stream.plan.log import PlanLog
from data_pipeline.stream.plan.state import Carry, Cursor, WindowStart


def start_of(count: int, seed: int = 0) -> WindowStart:
    random = np.random.default_rng(seed)
    carry = Carry.of(
        random.integers(0, 8, count),
        random.integers(0, 3, count),
        random.integers(0, 10**9, count),
        random.integers(1, 3, count),
    )
    cursors = tuple(Cursor(*(int(n) for n in random.integers(0, 10**6, 4))) for _ in range(8))
    return WindowStart(cursors, tuple(random.normal(size=8).tolist()), carry)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_json_and_back(count: int) -> None:
    start = start_of(count)
    again = WindowStart.from_json(json.loads(json.dumps(start.to_json())))
    assert again.cursors == start.cursors and again.credit == start.credit
    for name in ("source", "epoch", "index", "age"):
        assert np.array_equal(getattr(again.carry, name), getattr(start.carry, name))


def test_eight_sources_of_a_billion_and_a_carry_of_a_thousand_fit_8_kb() -> None:
    assert len(json.dumps(start_of(1000).to_json())) <= 8192


@pytest.mark.parametrize("damage", [lambda d: {**d, "carry": d["carry"][:-9]}, lambda d: {**d, "cursors": [[1, 2]]}])
def test_a_damaged_state_is_an_error(damage: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        WindowStart.from_json(damage(start_of(100).to_json()))


def filled(path: Path, windows: int, fingerprint: str = "a") -> PlanLog:
    log = PlanLog(path, fingerprint, write=True)
    for window in range(windows):
        log.append(window, {"cursors": [[0, 0, window, 0]], "credit": [0.0], "carry": "x" * (window * 37 % 500)})
    return log


@pytest.mark.parametrize("windows", [1, 2, 3, 97])
def test_every_window_is_found(windows: int, tmp_path: Path) -> None:
    log = filled(tmp_path / "plan.log", windows)
    for window in range(windows):
        found = log.nearest(window)
        assert found is not None and found[0] == window and found[1]["cursors"] == [[0, 0, window, 0]]
    assert log.nearest(10**6)[0] == windows - 1  # type: ignore[index]
    assert log.nearest(-1) is None


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_line_is_passed_over_and_written_again(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "plan.log"
    filled(path, 20)
    os.truncate(path, path.stat().st_size - cut)
    whole = path.read_bytes().count(b"\n")
    log = filled(path, 40)
    assert whole < 20
    for window in range(40):
        assert log.nearest(window)[0] == window  # type: ignore[index]


def test_nothing_is_appended_twice_and_a_reader_appends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "plan.log"
    filled(path, 10)
    before = path.read_bytes()
    filled(path, 10)
    PlanLog(path, "a", write=False).append(10, {})
    assert path.read_bytes() == before


def test_another_plan_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "plan.log", 3)
    with pytest.raises(UserError, match="belongs to another plan"):
        PlanLog(tmp_path / "plan.log", "b", write=True).nearest(1)
