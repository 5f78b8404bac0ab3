"""A build's progress under a clock of our own, and what it wrote."""

import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_pipeline.ingest.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def progress(output: Path | str, clock: Clock, **more: Any) -> Progress:
    return Progress(str(output), "a set", **{"bar": False, **more}, clock=clock, wall=lambda: 1.8e9 + clock.now)


def work(one: Progress, clock: Clock, rows: int, rate: float = 100.0, share: float = 0.5) -> None:
    """Rows in tens, at `rate` a second; every other one is kept."""
    for _ in range(rows // 10):
        clock.now += 10 / rate
        kept = int(10 * share)
        one.advance(10, kept=kept, rejected={"fetch/timeout": 9 - kept, "filter/empty": 1}, bytes=1000)


def lines_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log" / "build.jsonl").read_text().splitlines()]


def scalars_of(folder: Path, tag: str) -> list[tuple[int, float]]:
    board = EventAccumulator(str(folder / "log" / "tb"), size_guidance={"scalars": 0})
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars(tag)]


def page_of(output: Path) -> str:
    return (output / "log" / "build.html").read_text()
