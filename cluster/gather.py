"""Before ranks start: the launchers of all nodes meet in the run's folder, which proves that they share it."""

import contextlib
import os
import shutil
import time
from pathlib import Path

from cluster.place import Node
from configs.errors import NO_REQUEUE, RunError, UserError

GATHER_SECONDS = 60.0
POLL_SECONDS = 0.1


class Apart(RunError):
    """The nodes do not meet, or one refuses: starting again does not help."""

    exit_code = NO_REQUEUE


def gather_seconds() -> float:
    """How long nodes wait for each other; a slow file system may need more."""
    text = os.environ.get("LOOKSAY_GATHER_SECONDS", "")
    try:
        return float(text) if text else GATHER_SECONDS
    except ValueError:
        raise UserError(f"LOOKSAY_GATHER_SECONDS={text!r} in the environment is not a number of seconds") from None


def gather(folder: Path, node: Node, refused: str | None = None, seconds: float | None = None) -> None:
    """Wait until every node of this start has written its name into `folder`/start-JOB.ATTEMPT.

    Args:
        folder: of the run's logs.
        refused: why this node cannot begin, if so: all nodes end with that sentence.
    Raises:
        Apart: a node refused, or did not come: the folder is not shared, or that node is slow.
    """
    place = folder / f"start-{node.attempt}"
    place.mkdir(parents=True, exist_ok=True)
    _say(place / f"node-{node.node}", f"refused: {refused}" if refused else f"here: {node.host}")
    end = time.monotonic() + (gather_seconds() if seconds is None else seconds)
    told: dict[int, str] = {}
    while True:
        told = _told(place, node.nodes)
        for number, line in told.items():
            if line.startswith("refused: "):
                raise Apart(f"{line.removeprefix('refused: ')} (on node {node.hosts[number]})")
        if len(told) == node.nodes:
            break
        if time.monotonic() > end:
            missing = [node.hosts[number] for number in range(node.nodes) if number not in told]
            raise Apart(
                f"{folder} on {node.host} does not show what {', '.join(missing[:4])} wrote there: the folder is not shared between "
                "the nodes; choose one on a shared file system with --run (if it is shared, but slow, export "
                "LOOKSAY_GATHER_SECONDS)"
            )
        time.sleep(POLL_SECONDS)
    if node.node == 0:
        for old in folder.glob("start-*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)


def _say(path: Path, line: str) -> None:
    """One line, there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(f"{' '.join(line.split())}\n", encoding="utf-8")
    os.replace(temporary, path)


def _told(place: Path, nodes: int) -> dict[int, str]:
    """Lines of the nodes that came. The folder is listed anew: a client of NFS remembers files that were not there."""
    with contextlib.suppress(FileNotFoundError):
        names = set(os.listdir(place))
        return {k: (place / f"node-{k}").read_text().strip() for k in range(nodes) if f"node-{k}" in names}
    return {}
