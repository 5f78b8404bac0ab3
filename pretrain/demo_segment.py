"""The demo's proof of exact resume: train on from a caption checkpoint, kill a rank, resume, compare the weights."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from configs.errors import RunError
from configs.load import dump_recipe
from configs.schema import TrainRecipe
from data_pipeline.storage import put
from pretrain.checkpoint import step_folder, weights_sha256
from pretrain.run_folder import steps_of
from pretrain.session import run_jobs

RESULT = "segment.json"


def run_segment(root: Path, caption: TrainRecipe) -> dict[str, Any]:
    """Train from the caption run's last but one checkpoint to its last; rank 1 is killed between.

    Returns {first, last, killed_at, bitwise, expected, found}, also written to segment/segment.json.
    """
    run, saved = root / "segment", steps_of(root / "caption")
    if (run / RESULT).exists():
        result = json.loads((run / RESULT).read_bytes())
        print(f"   {run}: reused, bitwise {result['bitwise']}")
        return result
    if len(saved) < 2:
        raise RunError(
            f"{root / 'caption'} has checkpoints of steps {saved}; the segment needs two: lower caption.checkpoint.every"
        )
    first, last = saved[-2], saved[-1]
    every = max(1, (last - first) // 3)
    tree = caption.model_copy(
        update={
            "checkpoint": caption.checkpoint.model_copy(update={"every": every}),
            "evaluate": caption.evaluate.model_copy(update={"source": None}),
        }
    )
    path = run / "logs" / "recipe.yaml"
    put(str(path), dump_recipe(tree).encode())
    job = {
        "verb": "train",
        "recipe": str(path),
        "run": str(run),
        "resume_from": f"{root / 'caption'}@{first}",
        "until": last,
    }
    killed = _run_and_kill(job, run, caption.parallel.ranks, first + every + max(1, every // 2))
    print(f"   rank {caption.parallel.ranks - 1} was killed at step {killed}; the same command again:")
    run_jobs([job], caption.parallel.ranks, run / "logs")
    expected, found = weights_sha256(step_folder(root / "caption", last)), weights_sha256(step_folder(run, last))
    result = {
        "first": first,
        "last": last,
        "killed_at": killed,
        "bitwise": expected == found,
        "expected": expected,
        "found": found,
    }
    put(str(run / RESULT), json.dumps(result, indent=1).encode())
    print(
        f"   weights at step {last}: {found[:16]}..., the uninterrupted run's {expected[:16]}...: {'equal' if expected == found else 'NOT equal'}"
    )
    return result


def _run_and_kill(job: dict[str, Any], run: Path, ranks: int, step: int) -> int:
    """Start the job and SIGKILL its last rank once `step` is logged. Returns the step seen at that moment."""
    seen: list[int] = []
    over = threading.Event()

    def watch(pids: list[int]) -> None:
        while not over.is_set():
            done = last_step(run / "metrics.jsonl")
            if done >= step:
                seen.append(done)
                os.kill(pids[-1], signal.SIGKILL)
                return
            time.sleep(0.05)

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
