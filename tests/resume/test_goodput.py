"""Where the time of a run went: the kinds add up to the whole, and steps trained again are no progress."""

import json
from pathlib import Path

import pytest

from pretrain.goodput import NAME, Timeline, goodput


def note(run: Path, moments: list[tuple[int, str, int, float, dict[str, float]]]) -> None:
    for generation, what, step, at, more in moments:
        Timeline(run, generation).add(what, step, at=at, **more)


def test_lost_steps_stalls_and_gaps_are_told_apart(tmp_path: Path) -> None:
    note(
        tmp_path,
        [
            (1, "start", 0, 100.0, {}),
            (1, "ready", 0, 110.0, {}),
            (1, "step", 1, 111.0, {}),
            (1, "step", 2, 113.0, {"stall": 0.5}),  # its checkpoint is committed
            (1, "step", 3, 114.0, {"validation": 0.25}),  # lost with the kill
            (1, "step", 4, 115.0, {}),
            (3, "start", 2, 120.0, {}),
            (3, "ready", 2, 124.0, {}),
            (3, "step", 3, 125.0, {}),
            (3, "step", 4, 126.5, {}),
            (3, "end", 4, 127.0, {}),
        ],
    )
    found = goodput(tmp_path)
    assert found is not None
    assert found["seconds"] == {
        "effective": 2.5 + 2.5 + 0.5,
        "lost": 1.75,
        "starting": 14.0,
        "down": 5.0,
        "stall": 0.5,
        "validation": 0.25,
    }
    assert sum(found["seconds"].values()) == pytest.approx(found["wall"]) and found["wall"] == 27.0
    assert (found["starts"], found["lost_steps"], found["recoveries"]) == (2, 2, [9.0])
    assert found["ratio"] == pytest.approx(5.5 / 27, abs=1e-4)


def test_a_torn_line_and_no_file(tmp_path: Path) -> None:
    assert goodput(tmp_path) is None
    note(tmp_path, [(1, "start", 0, 1.0, {}), (1, "ready", 0, 2.0, {})])
    with (tmp_path / NAME).open("a") as stream:
        stream.write(json.dumps({"t": 3.0, "gen": 1, "what": "step"})[:-9])
    found = goodput(tmp_path)
    assert found is not None and found["wall"] == 1.0


def test_the_report_shows_it(tmp_path: Path) -> None:
    from pretrain.report.spent import time_spent

    assert time_spent({"sft": tmp_path}) == ""
    note(tmp_path, [(1, "start", 0, 1.0, {}), (1, "ready", 0, 2.0, {}), (1, "step", 3, 10.0, {"stall": 0.5})])
    shown = time_spent({"s<ft": tmp_path})
    assert "s&lt;ft" in shown and "7.5 s" in shown and "83.3%" in shown and "0.5 s" in shown
