"""Runs of real processes that something happens to, from outside, at a moment that was named.

The ranks pause at the moment (pretrain/checkpoint/pausing.py), the fault is done to them, and they are let go on.
"""

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.launch import RankFailure, rank_environment
from cluster.ranks import Nursery
from configs.errors import REQUEUE
from configs.load import dump_recipe
from pretrain.restarting import MODULES, TARGET, start_ranks
from tests.pretrain.training_cases import small_recipe

RANKS, STEPS, EVERY = 2, 12, 4
WAIT_SECONDS = 60.0
Fault = Callable[[int, Sequence[int]], object]
"""Gets the process that pauses, and all ranks' processes."""


def recipe_tree(world: str, **parts: dict[str, Any]) -> Any:
    """Twelve steps of the squares, a checkpoint every four, a heart that is heard within seconds."""
    own: dict[str, dict[str, Any]] = {
        "stage": {"steps": STEPS},
        "checkpoint": {"every": EVERY, "keep_last": 3},
        "parallel": {"zero": 3, "precision": "bf16", "heartbeat_seconds": 3.0, "timeout_seconds": 20.0},
        "log": {"to": []},
    }
    for name, values in parts.items():
        own[name] = own.get(name, {}) | values
    return small_recipe(world, **own)


def new_nursery(ranks: int = RANKS) -> Nursery:
    return Nursery(TARGET, MODULES, rank_environment(0, ranks, 0, 1, None))


@dataclass
class Happening:
    """A fault at a moment: `pids` of the ranks are known from the start on."""

    folder: Path
    moment: str
    fault: Fault
    pids: list[int] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    problem: BaseException | None = None

    def started(self, pids: list[int]) -> None:
        self.pids[:] = pids

    def watch(self) -> None:
        """Wait for the pause, do it, let go."""
        path, end = self.folder / "pause", time.monotonic() + WAIT_SECONDS
        try:
            while not (path.exists() and path.read_text()):
                if time.monotonic() > end:
                    return
                time.sleep(0.005)
            pid, _ = map(int, path.read_text().split())
            self.fault(pid, self.pids)
            path.write_text("")
            self.done.set()
        except BaseException as error:
            self.problem = error


def train(
    nursery: Nursery, recipe: Any, run: Path, happening: Happening | None = None, ranks: int = RANKS, **more: Any
) -> list[int]:
    """Train to the end as a scheduler would: again as long as that is asked for. Returns the exit codes."""
    path = run / "logs" / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_recipe(recipe))
    jobs = [{"verb": "train", "recipe": str(path), "run": str(run), **more}]
    (run / "logs" / "jobs.json").write_text(json.dumps(jobs))
    codes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        if happening is not None:
            patch.setenv("LOOKSAY_PAUSE_AT", happening.moment)
            patch.setenv("LOOKSAY_PAUSE_FILE", str(happening.folder / "pause"))
            threading.Thread(target=happening.watch, daemon=True).start()
        while not codes or codes[-1] == REQUEUE:
            assert len(codes) < 5, f"it asks for a requeue again and again: {codes}"
            try:
                on_start = happening.started if happening is not None else None
                start_ranks(str(run / "logs" / "jobs.json"), jobs, ranks, str(run / "logs"), 1, on_start, nursery)
                codes.append(0)
            except RankFailure as failure:
                codes.append(failure.exit_code)
    if happening is not None and happening.problem is not None:
        raise happening.problem
    return codes


# ---- what is done to a process -----------------------------------------------------------------------------------


def sends(number: signal.Signals) -> Fault:
    return lambda pid, _: os.kill(pid, number)


def takes_memory_away(pid: int, _: Sequence[int]) -> None:
    """No more address space than it has: what it asks for next is refused."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    size = pages * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(pid, resource.RLIMIT_AS, (size, resource.prlimit(pid, resource.RLIMIT_AS)[1]))
