"""A command on nodes of a Ray cluster, started again on what is there after a node was lost. The same exit codes as under SLURM."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.place import node_environment
from cluster.rayjobs.placement import Placement
from configs.errors import DONE, NO_REQUEUE, REQUEUE, USAGE

POLL_SECONDS = 0.25
QUIET_SECONDS = 30.0
"""A node that says nothing for so long is lost: behind a cut cable Ray itself may take minutes to notice."""
AFTER_SECONDS, GRACE_SECONDS = 20.0, 10.0
"""Once one node has failed, the others end by themselves, for they miss it, and judge their failure; then they are ended."""


@dataclass(frozen=True)
class Ask:
    """What to run where.

    Args:
        words: the command, the same on each node.
        bundle: processors ("CPU") and GPUs ("GPU") of a node.
        most: starts again.
        fewest: nodes that it may go on with.
    """

    words: tuple[str, ...]
    cwd: str | None
    job: str
    nodes: int
    ranks: int
    bundle: dict[str, float]
    most: int
    fewest: int
    wait_seconds: float


@dataclass
class Stop:
    """Set by a signal."""

    asked: bool = False


@dataclass
class _Watched:
    launcher: Any
    asked: Any = None
    heard: float = field(default_factory=time.monotonic)
    code: int | None = None
    lost: bool = False

    @property
    def runs(self) -> bool:
        return self.code is None and not self.lost


def run_on_nodes(ask: Ask, say: Callable[[str], None], stop: Stop) -> int:
    """Run a command on nodes of the Ray that this process has joined, until it is done or does not help. Returns its exit code.

    Raises:
        Missing: the cluster has no such nodes.
    """
    for start in range(ask.most + 1):
        placed = Placement(
            ask.nodes,
            ask.bundle,
            say,
            fewest=ask.fewest,
            wait_seconds=ask.wait_seconds,
            stopped=lambda: stop.asked,
        )
        try:
            code = _one_start(ask, placed, start, say, stop)
        finally:
            placed.close()
        if code != REQUEUE or stop.asked:
            return code
        say(f"job {ask.job} starts again, after {start} starts before this one")
    say(f"started again {ask.most} times already: not once more")
    return NO_REQUEUE


def _one_start(ask: Ask, placed: Placement, start: int, say: Callable[[str], None], stop: Stop) -> int:
    import ray

    try:
        nodes = placed.meet(ask.ranks, ask.job, f"{ask.job}.{start}")
        begun = [
            launcher.begin.remote(list(ask.words), ask.cwd, node_environment(node))
            for launcher, node in zip(placed.launchers, nodes, strict=True)
        ]
        refused = next((sentence for sentence in ray.get(begun, timeout=QUIET_SECONDS) if sentence), None)
    except ray.exceptions.RayError as error:
        say(f"a node was lost before the ranks began ({type(error).__name__})")
        return REQUEUE
    if refused is not None:
        say(f"looksay: {refused}")
        return NO_REQUEUE
    say(f"on nodes {','.join(nodes[0].hosts)}")
    watched = [_Watched(launcher) for launcher in placed.launchers]
    ended: float | None = None
    while any(one.runs for one in watched):
        if stop.asked and ended is None:
            _signal(watched, signal.SIGTERM)  # ranks write a checkpoint; Ray kills this process when its patience ends
            ended = time.monotonic() + 3600.0
        _look(watched, [node.host for node in nodes], say)
        bad = any(one.lost or one.code not in (None, DONE) for one in watched)
        if ended is None and bad:
            ended = time.monotonic()
        if ended is not None and bad and time.monotonic() - ended > AFTER_SECONDS:
            _signal(watched, signal.SIGTERM)
            if time.monotonic() - ended > AFTER_SECONDS + GRACE_SECONDS:
                break
    return code_of([one.code for one in watched], [one.lost for one in watched])


def _look(watched: Sequence[_Watched], hosts: Sequence[str], say: Callable[[str], None]) -> None:
    """Take in what nodes say; wait a moment if it is nothing."""
    import ray

    for one in watched:
        if one.runs and one.asked is None:
            one.asked = one.launcher.look.remote()
    waiting = {one.asked: number for number, one in enumerate(watched) if one.runs}
    ray.wait(list(waiting), num_returns=len(waiting), timeout=POLL_SECONDS)
    ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
    for ref in ready:
        one = watched[waiting[ref]]
        one.asked, one.heard = None, time.monotonic()
        try:
            one.code, text = ray.get(ref)
        except ray.exceptions.RayError as error:
            one.lost = True
            say(f"node {hosts[waiting[ref]]} is lost ({type(error).__name__})")
            continue
        if text:
            say(text.removesuffix("\n"))
    for number, one in enumerate(watched):
        if one.runs and time.monotonic() - one.heard > QUIET_SECONDS:
            one.lost = True
            say(f"node {hosts[number]} has not answered for {QUIET_SECONDS:.0f} s: it counts as lost")
    time.sleep(POLL_SECONDS / 5)


def _signal(watched: Sequence[_Watched], number: int) -> None:
    for one in watched:
        if one.runs:
            one.launcher.signal.remote(number)


def code_of(codes: Sequence[int | None], lost: Sequence[bool]) -> int:
    """The exit code of a start from those of its nodes. A lost node asks for another start, unless one refused for good.

    >>> code_of([75, None], [False, True]), code_of([93, None], [False, True]), code_of([0, 1], [False, False])
    (75, 93, 1)
    """
    known = [code for code in codes if code is not None]
    for final in (USAGE, NO_REQUEUE):
        if final in known:
            return final
    if any(lost) or None in codes:
        return REQUEUE
    return max(known)
