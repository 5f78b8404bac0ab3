"""The demo's proof of exact resume: train on from a caption checkpoint, kill a rank, resume, compare the weights."""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

from configs.errors import RunError
from configs.load import dump_recipe
from configs.schema import TrainRecipe
from data_pipeline.storage import put
from pretrain.checkpoint.choose import folder_of
from pretrain.checkpoint.reading import weights_sha256
from pretrain.run_folder import steps_of
from pretrain.session import run_jobs

RESULT = "segment.json"


def run_segment(root: Path, caption: TrainRecipe) -> bool:
    """Train from the caption run's last but one checkpoint to its last; rank 1 is killed between.

    Writes segment/segment.json: {first, last, killed_at, bitwise, expected, found}. Returns whether there was anything to do.

    Raises:
        RunError: a rank failed that nobody killed, or too few checkpoints.
    """
    run, saved = root / "segment", steps_of(root / "caption")
    if len(saved) < 2:
        raise RunError(
            f"{root / 'caption'} has checkpoints of steps {saved}; the segment needs two: lower caption.checkpoint.every"
        )
    first, last = saved[-2], saved[-1]
    expected = weights_sha256(folder_of(root / "caption", last))
    if (run / RESULT).exists():
        result = json.loads((run / RESULT).read_bytes())
        if (result["last"], result["expected"]) == (last, expected):
            print(f"   {run}: reused, {_verdict(result)}")
            return False
    shutil.rmtree(run, ignore_errors=True)  # what an interrupted segment left could be past the step to kill at
    every = max(1, (last - first) // 3)
    job = _job(root, caption, every, first, last)
    killed = _run_and_kill(job, run, caption.parallel.ranks, first + every + max(1, every // 2))
    print(f"   rank {caption.parallel.ranks - 1} was killed at step {killed}; the same command again:", flush=True)
    run_jobs([job], caption.parallel.ranks, run / "logs")
    found = weights_sha256(folder_of(run, last))
    result = {
        "first": first,
        "last": last,
        "killed_at": killed,
        "bitwise": expected == found,
        "expected": expected,
        "found": found,
    }
    put(str(run / RESULT), json.dumps(result, indent=1).encode())
    print(f"   {_verdict(result)}", flush=True)
    return True


def _verdict(result: dict[str, Any]) -> str:
    return (
        f"weights at step {result['last']}: SHA-256 {result['found'][:16]}..., the uninterrupted run's {result['expected'][:16]}...: "
        f"{'equal' if result['bitwise'] else 'NOT equal'}"
    )


def _job(root: Path, caption: TrainRecipe, every: int, first: int, last: int) -> dict[str, Any]:
    """The caption run again between two of its checkpoints, with checkpoints of its own and no validation."""
    run = root / "segment"
    tree = caption.model_copy(
        update={
            "checkpoint": caption.checkpoint.model_copy(update={"every": every}),
            "evaluate": caption.evaluate.model_copy(update={"source": None}),
        }
    )
    path = run / "logs" / "recipe.yaml"
    put(str(path), dump_recipe(tree).encode())
    start = f"{root / 'caption'}@{first}"
    return {"verb": "train", "recipe": str(path), "run": str(run), "resume_from": start, "until": last}


def _run_and_kill(job: dict[str, Any], run: Path, ranks: int, step: int) -> int:
    """Start the job and SIGKILL its last rank once `step` is logged. Returns the step seen at that moment."""
    seen: list[int] = []
    over = threading.Event()

    def watch(pids: list[int]) -> None:
        while not over.is_set():
            done = last_step(run / "metrics.jsonl")
            if done >= step:
                seen.append(done)
                with contextlib.suppress(ProcessLookupError):  # it ended at this very moment
                    os.kill(pids[-1], signal.SIGKILL)
                return
            time.sleep(0.02)

    def on_start(pids: list[int]) -> None:
        threading.Thread(target=watch, args=(pids,), daemon=True).start()

    try:
        run_jobs([job], ranks, run / "logs", on_start=on_start)
    except RunError as error:
        over.set()
        if not seen:
            raise
        print(f"   {str(error).splitlines()[0].split('; its last')[0]}")
        return seen[0]
    over.set()
    raise RunError(
        f"{run} reached its end before a rank could be killed at step {step}: raise caption.checkpoint.every"
    )


def last_step(metrics: Path) -> int:
    """The last finished step in a metrics file, -1 where there is none."""
    if not metrics.exists():
        return -1
    for line in reversed(metrics.read_text(encoding="utf-8").splitlines()):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError):
            continue  # the line that is being written
    return -1
