"""Where the time of a run went, over all its starts: steps that count, steps that were lost, standing still.

RUN/timeline.jsonl is a list of moments, appended as they come and never changed; every second between the first and
the last belongs to exactly one kind, so the kinds add up to the whole.
"""

import json
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

NAME = "timeline.jsonl"
KINDS = ("effective", "lost", "starting", "down", "stall", "validation")
"""Steps of the committed history; steps trained again later; from a process' birth to its first step; between two starts;
waiting for a checkpoint; validation."""


class Timeline:
    """Appends moments of one start, on the first rank."""

    def __init__(self, run: Path, generation: int):
        self._path, self._generation = run / NAME, generation

    def add(self, what: str, step: int, at: float | None = None, **more: float) -> None:
        """`what`: start (a process was born), ready (its first step begins), step (a step is over), end.

        Args:
            step: finished steps.
            more: `stall` and `validation`, seconds of the interval before this moment.
        """
        moment = {"t": time.time() if at is None else at, "gen": self._generation, "what": what, "step": step, **more}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(moment) + "\n")


def born() -> float:
    """When this process (or the launch that it belongs to) began, seconds of the epoch."""
    told = os.environ.get("LOOKSAY_BORN", "")
    if told.replace(".", "", 1).isdigit():
        return float(told)
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as stat, open("/proc/uptime") as uptime:
            ticks = float(stat.read().rpartition(")")[2].split()[19])
            return time.time() - float(uptime.read().split()[0]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # not Linux: the imports before this are not counted
        return time.time()


def read_timeline(run: Path) -> list[dict[str, Any]]:
    """All moments in order of time; a torn last line of a killed start is left out."""
    moments = []
    try:
        lines = (run / NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            moment = json.loads(line)
            moments.append({**moment, "t": float(moment["t"]), "gen": int(moment["gen"]), "step": int(moment["step"])})
        except (ValueError, KeyError, TypeError):
            continue
    return sorted(moments, key=lambda moment: (moment["gen"], moment["t"]))


def goodput(run: Path) -> dict[str, Any] | None:
    """Seconds by kind, `wall`, `ratio` (effective / wall), `starts`, `lost_steps`, `recoveries` (seconds from the end of a start's
    last step to the first step of the next). None where nothing was noted."""
    moments = read_timeline(run)
    if not moments:
        return None
    seconds = dict.fromkeys(KINDS, 0.0)
    # A step counts if no later start took the run up before it.
    resumed = {m["gen"]: m["step"] for m in moments if m["what"] == "start"}
    recoveries: list[float] = []
    lost_steps, last_step_end = 0, None
    for before, now in pairwise(moments):
        span = now["t"] - before["t"]
        if now["what"] == "start":
            seconds["down"] += span
        elif now["what"] == "ready":
            seconds["starting"] += span
            if last_step_end is not None:
                recoveries.append(round(now["t"] - last_step_end, 3))
        else:
            idle = {kind: min(float(now.get(kind, 0.0)), span) for kind in ("stall", "validation")}
            for kind, value in idle.items():
                seconds[kind] += value
            counts = all(now["step"] <= step for gen, step in resumed.items() if gen > now["gen"])
            if now["what"] == "step":
                lost_steps += 0 if counts else now["step"] - before["step"]
                last_step_end = now["t"]
            seconds["effective" if counts else "lost"] += span - sum(idle.values())
    wall = moments[-1]["t"] - moments[0]["t"]
    return {
        "seconds": {kind: round(value, 3) for kind, value in seconds.items()},
        "wall": round(wall, 3),
        "ratio": round(seconds["effective"] / wall, 4) if wall else 1.0,
        "starts": len(resumed),
        "lost_steps": lost_steps,
        "recoveries": recoveries,
    }
