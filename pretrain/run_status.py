"""How far a run is, from its folder and from what a scheduler says of its jobs. No torch."""

import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.schedulers.job import State
from pretrain.attempts import read_attempts
from pretrain.checkpoint.head import Heads
from pretrain.goodput import goodput

LAST_BYTES = 1 << 18
RATE_STEPS = 50
"""The rate is the median of so many steps."""
QUIET_SECONDS = 60.0


def status_of(run: Path, jobs: Sequence[Mapping[str, Any]], states: Mapping[str, State]) -> dict[str, Any]:
    """State, step, loss, rate, seconds to go, newest checkpoint, restarts; `job` is the one that runs, or waits, or was last."""
    told = _json(run / "status.json")
    lines = [line for line in last_lines(run / "metrics.jsonl") if "loss" in line]
    last = lines[-1] if lines else {}
    rate = statistics.median(line["seconds"]["total"] for line in lines[-RATE_STEPS:]) if lines else None
    step, steps = max(last.get("step", 0), told.get("step", 0)), told.get("steps")
    folder = _checkpoints(run)
    entries = Heads(folder).read().entries if folder else ()
    attempts = read_attempts(run / "logs")
    job = _present(jobs, states)
    if job is not None and job.get("scheduler") == "ray":  # which does not count starts again itself
        job["restarts"] = max(
            0, sum(line.get("what") == "start" and line.get("job") == job["id"] for line in attempts) - 1
        )
    spent = goodput(run)
    left = (steps - step) * rate if rate is not None and steps is not None and told.get("state") != "done" else None
    return {
        "run": str(run),
        "state": told.get("state"),
        "step": step,
        "steps": steps,
        "loss": last.get("loss"),
        "seconds_per_step": rate,
        "tokens_per_s": last.get("tokens_per_s"),
        "eta_seconds": left,
        "seen_seconds_ago": time.time() - last["wall"] if "wall" in last else None,
        "checkpoint": {"step": entries[-1].step, "time": entries[-1].time} if entries else None,
        "starts": spent["starts"] if spent else 0,
        "failures": sum(line.get("what") == "failure" for line in attempts),
        "job": job,
    }


def _present(jobs: Sequence[Mapping[str, Any]], states: Mapping[str, State]) -> dict[str, Any] | None:
    """The job to speak of, with what the scheduler says of it; `then` are those that wait for it."""
    if not jobs:
        return None
    known = [(job, states.get(str(job["id"]), State(str(job["id"]), None))) for job in jobs]
    active = [pair for pair in known if pair[1].waits_or_runs]
    job, state = next((pair for pair in active if pair[1].state != "PENDING"), active[0] if active else known[-1])
    told = {"state": state.state, "reason": state.reason, "restarts": state.restarts, "nodes": state.nodes}
    return {**job, **told, "then": [other["id"] for other, _ in active if other is not job]}


def text_of(tree: Mapping[str, Any]) -> str:
    """The tree of `status_of` for people."""
    job, out = tree["job"], [f"{tree['run']}: {tree['state'] or 'not started yet'}"]
    if job is not None:
        said = job["state"] or "not in the queue any more"
        reason = f" ({job['reason']})" if job["reason"] else ""
        where = f" on {job['nodes']}" if job["nodes"] else ""
        out.append(f"  job         {job['id']}: {said}{reason}{where}, queued again {job['restarts']} times")
        if job["then"]:
            out.append(f"  also        {', '.join(job['then'])}")
    if tree["steps"]:
        out.append(f"  step        {tree['step']} of {tree['steps']} ({tree['step'] / tree['steps']:.0%})")
    if tree["loss"] is not None:
        out.append(f"  loss        {tree['loss']:.4f}")
    if tree["seconds_per_step"] is not None and tree["tokens_per_s"] is not None:
        out.append(f"  rate        {tree['seconds_per_step']:.2f} s a step, {tree['tokens_per_s']:,.0f} tokens/s")
    if tree["eta_seconds"] is not None:
        out.append(f"  to go       {span(tree['eta_seconds'])} of training")
    if tree["checkpoint"] is not None:
        ago = span(max(0.0, time.time() - tree["checkpoint"]["time"]))
        out.append(f"  checkpoint  step {tree['checkpoint']['step']}, {ago} ago")
    if tree["starts"]:
        out.append(f"  starts      {tree['starts']}, of which {tree['failures']} ended by a failure")
    if tree["state"] == "running" and (tree["seen_seconds_ago"] or 0) > QUIET_SECONDS:
        out.append(f"  last step   {span(tree['seen_seconds_ago'])} ago")
    if job is not None:
        out.append(f"  log         {job['log']}")
    return "\n".join(out)


def span(seconds: float) -> str:
    """A time as people say it.

    >>> span(42), span(3700), span(200_000)
    ('42 s', '1 h 1 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def last_lines(path: Path) -> list[dict[str, Any]]:
    """The last lines of a file of JSON lines: as many as a fixed number of bytes holds, whole ones."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - LAST_BYTES))
            lines = stream.read().splitlines()[1 if size > LAST_BYTES else 0 :]
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # being written at this moment
            continue
    return found


def _checkpoints(run: Path) -> str | None:
    """Folder of the checkpoints, if it is on this machine: asking a bucket would take seconds."""
    elsewhere = _json(run / "checkpoints" / "elsewhere.json").get("folder")
    folder = str(elsewhere or run / "checkpoints")
    return None if "://" in folder else folder


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return {}
