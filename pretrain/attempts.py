"""Starts and failures of a scheduler's job, kept over its requeues: a job that gets nowhere is not queued for ever."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.launch import RankFailure
from cluster.place import Node
from configs.errors import NO_REQUEUE, REQUEUE, RunError

NAME = "attempts.jsonl"
MOST_STARTS = 10
"""Starts in a row that take the run up at the same step. Jobs are preempted while they start, so it is not one or two."""


class InVain(RunError):
    """The job was started again and again and no checkpoint came of it."""

    exit_code = NO_REQUEUE


class Attempts:
    """What became of the starts of one job of a scheduler.

    Args:
        folder: of the run's logs, which all nodes see.
        most: failures in a row without a newer checkpoint that are tried again.
    """

    def __init__(self, folder: Path, node: Node, most: int):
        self._path, self._node, self._most = folder / NAME, node, most

    def begin(self, step: int) -> None:
        """The job starts at a checkpoint of `step` (0: none). Told by its first node.

        Raises:
            InVain: so many starts before this one began there too.
        """
        alike = 0
        for line in reversed(list(self._lines("start"))):
            if line["step"] != step:
                break
            alike += 1
        if alike >= MOST_STARTS:
            raise InVain(
                f"{alike} starts of job {self._node.job} in a row found no newer checkpoint than step {step}: see the logs in "
                f"{self._path.parent}, give a start more time (--time) or set checkpoint.every lower, and submit again"
            )
        self._append({"what": "start", "step": step})

    def judge(self, failure: RankFailure, step: int) -> RankFailure:
        """Decide whether another start may mend a failure of this node's ranks: the exit code is 75, or 93.

        A rank that misses a peer leaves the judgement to the peer's node. What ends the same way twice at the same step is
        the program's fault.
        """
        if failure.exit_code == REQUEUE:
            return failure
        if failure.exit_code == NO_REQUEUE or not self._most:
            failure.exit_code = NO_REQUEUE
            return failure
        if failure.lost_peer:
            failure.exit_code = REQUEUE
            return failure
        said = (failure.lines or [""])[-1]
        before = [line for line in self._lines("failure") if line["step"] == step]
        before = [line for line in before if line["attempt"] != self._node.attempt]  # other nodes fail beside this one
        same = failure.status >= 0 and any(line["said"] == said for line in before)
        starts = len({line["attempt"] for line in before})
        failure.exit_code = NO_REQUEUE if same or starts >= self._most else REQUEUE
        self._append({"what": "failure", "step": step, "status": failure.status, "said": said})
        return failure

    def _append(self, line: dict[str, Any]) -> None:
        line |= {
            "job": self._node.job,
            "attempt": self._node.attempt,
            "node": self._node.host,
            "t": round(time.time(), 3),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # One write: lines of several nodes do not mix.
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, (json.dumps(line) + "\n").encode())
        finally:
            os.close(file)

    def _lines(self, what: str) -> Iterator[dict[str, Any]]:
        for line in read_attempts(self._path.parent):
            if line.get("job") == self._node.job and line.get("what") == what:
                yield line


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """All starts and failures that are noted in a folder of logs; a torn line is left out."""
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            continue
    return found
