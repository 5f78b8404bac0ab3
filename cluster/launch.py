"""Start ranks on this machine, watch them, and say what went wrong when one ends badly.

Ranks come from a nursery (cluster/ranks.py), whose Python does not look into the working folder. Each rank's output goes
to `LOG_DIR/rank-N.log`; rank 0's is echoed. Where the job has several nodes, each runs this for its own ranks.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.place import Node
from cluster.ranks import Nursery, Rank
from configs.errors import FAILED, NO_REQUEUE, REQUEUE, USAGE, RunError

LAST_LINES = 20
GRACE_SECONDS, AFTER_FAILURE_SECONDS = 10.0, 2.0
CARRIED = (USAGE, REQUEUE, NO_REQUEUE)
START = "--- start"
LOST_PEER = ("Connection reset by peer", "Connection closed by peer", "gloo::", "NCCL error", "lost a peer")


class RankFailure(RunError):
    """A rank ended badly. `exit_code` carries the codes that mean something (bad input, requeue, do not requeue)."""

    def __init__(self, rank: int, status: int, log: Path, lines: Sequence[str]):
        self.rank, self.status, self.log, self.lines = rank, status, log, list(lines)
        self.lost_peer = any(mark in line for mark in LOST_PEER for line in lines)
        self.exit_code = status if status in CARRIED else FAILED
        what = f"exit code {status}" if status >= 0 else f"signal {-status} ({_name_of_signal(-status)})"
        if status == REQUEUE:
            super().__init__((list(lines) or [f"rank {rank} asks to be started again"])[-1].removeprefix("looksay: "))
            return
        shown = "".join(f"\n    {line}" for line in lines) or " none"
        super().__init__(f"rank {rank} ended with {what}; its last lines:{shown}\n  full log: {log}")


def _name_of_signal(number: int) -> str:
    return next((one.name for one in signal.Signals if one == number), "unnamed")


def free_port(address: str = "127.0.0.1") -> int:
    """A port of this machine that nobody listens on now: each start has its own."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def launch(
    nursery: Nursery,
    arguments: Sequence[str],
    *,
    ranks: int,
    log_dir: str,
    threads: int | None = None,
    env: Mapping[str, str] | None = None,
    on_start: Callable[[list[int]], None] | None = None,
    node: Node | None = None,
) -> None:
    """Run `ranks` ranks of a nursery and wait for all of them. SIGTERM and SIGUSR1 are passed on to them.

    Args:
        threads: OMP_NUM_THREADS of each rank; none leaves it.
        node: this one of the job's nodes, where there are several.
        on_start: gets the process ids.
    Raises:
        RankFailure: the first rank that failed; the others are ended.
    """
    folder = Path(log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    port, first = free_port(), node.node * node.ranks if node is not None else 0
    started: list[Rank] = []
    files: list[Any] = []
    echo: threading.Thread | None = None
    failed: list[int] = []
    with _passing_on(started) as stopped:
        try:
            for rank in range(ranks):
                log = (folder / f"rank-{first + rank}.log").open("ab", buffering=0)
                log.write(f"{START} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
                files.append(log)
                reader, writer = os.pipe() if first + rank == 0 else (None, log.fileno())
                environment = rank_environment(rank, ranks, port, threads, env, node)
                started.append(nursery.start(arguments, environment, writer))
                if reader is not None:
                    os.close(writer)
                    echo = threading.Thread(target=_echo, args=(reader, log), daemon=True)
                    echo.start()
            if on_start is not None:
                on_start([rank.pid for rank in started])
            failed = _wait(started)
        finally:
            # Whoever waits for a peer that is gone learns nothing from waiting longer.
            _end(started, AFTER_FAILURE_SECONDS if failed else GRACE_SECONDS)
            if echo is not None:
                echo.join(timeout=5)
            for log in files:
                log.close()
    if failed:
        cause = _cause(failed, started, folder, first)
        path = folder / f"rank-{first + cause}.log"
        status = REQUEUE if stopped else started[cause].returncode or FAILED
        raise RankFailure(first + cause, status, path, last_lines(path))


@contextlib.contextmanager
def _passing_on(started: list[Rank]) -> Iterator[list[int]]:
    """SIGTERM and SIGUSR1 to this process go to its ranks, which save and end. Yields the signals that came."""
    came: list[int] = []

    def pass_on(number: int, _: object) -> None:
        came.append(number)
        for rank in started:
            with contextlib.suppress(ProcessLookupError):  # it ended at this very moment
                rank.signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield came  # signals are the main thread's
        return
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rank_environment(
    rank: int,
    ranks: int,
    port: int,
    threads: int | None,
    more: Mapping[str, str] | None,
    node: Node | None = None,
) -> dict[str, str]:
    """The environment of a local rank, as torchrun would set it."""
    env = dict(os.environ)
    env |= {
        "RANK": str(rank + (node.node * node.ranks if node else 0)),
        "WORLD_SIZE": str(node.world if node else ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": str(node.node if node else 0),
        "MASTER_ADDR": node.master_addr if node else "127.0.0.1",
        "MASTER_PORT": str(node.master_port if node else port),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "LOOKSAY_LAUNCHED": "1",
    }
    env.setdefault("TORCH_EXTENSIONS_DIR", _extensions_folder())
    if threads is not None:
        env["OMP_NUM_THREADS"] = str(threads)
    return env | dict(more or {})


def _extensions_folder() -> str:
    """Where DeepSpeed keeps what it builds: a folder of the user's own, for its content is loaded as code."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "looksay", "torch-extensions")


def _echo(reader: int, log: Any) -> None:
    """Copy rank 0's output to its log and to the console. A console that went away does not stop the rank."""
    console = True
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            log.write(line)
            if not console:
                continue
            try:
                sys.stdout.write(line.decode(errors="replace"))
                sys.stdout.flush()
            except (OSError, ValueError) as error:
                console = False
                log.write(f"--- the console is gone ({error}): the output goes on here only\n".encode())


def _wait(processes: list[Rank]) -> list[int]:
    """Wait for all; returns the ranks that had failed when the first was noticed and a moment after, in that order."""
    while True:
        status = [process.poll() for process in processes]
        bad = [rank for rank, code in enumerate(status) if code not in (None, 0)]
        if bad:
            time.sleep(0.5)  # the cause and those that lost their peer fail together
            return bad + [r for r, p in enumerate(processes) if p.poll() not in (None, 0) and r not in bad]
        if all(code == 0 for code in status):
            return []
        time.sleep(0.05)


def _cause(failed: list[int], processes: list[Rank], folder: Path, first: int) -> int:
    """Of ranks that failed together: one that does not merely miss its peer; among these, one that a signal ended."""

    def blame(rank: int) -> tuple[bool, bool, int]:
        missing = any(mark in line for line in last_lines(folder / f"rank-{first + rank}.log") for mark in LOST_PEER)
        return (missing, (processes[rank].returncode or 0) >= 0, failed.index(rank))

    return min(failed, key=blame)


def _end(started: list[Rank], grace: float) -> None:
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, GRACE_SECONDS)):
        for rank in started:
            with contextlib.suppress(ProcessLookupError):
                rank.signal(number)
        deadline = time.monotonic() + seconds
        while any(rank.poll() is None for rank in started) and time.monotonic() < deadline:
            time.sleep(0.02)


def last_lines(path: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines of a log that belong to its latest start, without reading all of it."""
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 64 * 1024))
        lines = stream.read().decode(errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(START)]
    return lines[starts[-1] + 1 if starts else 0 :][-count:]
