"""Start ranks on this machine, watch them, and say what went wrong when one ends badly.

Ranks run `python -P -m MODULE`, so that packages in the working folder do not shadow ours. Each rank's output goes to
`LOG_DIR/rank-N.log`; rank 0's is echoed.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from configs.errors import FAILED, NO_REQUEUE, REQUEUE, USAGE, RunError

LAST_LINES = 20
GRACE_SECONDS = 10.0
CARRIED = (USAGE, REQUEUE, NO_REQUEUE)
START = "--- start"
LOST_PEER = ("Connection reset by peer", "Connection closed by peer", "gloo::", "NCCL error")
LIBC = ctypes.CDLL(None)  # loaded before any fork: a child may not wait for the loader's lock


class RankFailure(RunError):
    """A rank ended badly. `exit_code` carries the codes that mean something (bad input, requeue, do not requeue)."""

    def __init__(self, rank: int, status: int, log: Path, lines: Sequence[str]):
        self.rank, self.status, self.log = rank, status, log
        self.exit_code = status if status in CARRIED else FAILED
        what = f"exit code {status}" if status >= 0 else f"signal {-status} ({_name_of_signal(-status)})"
        shown = "".join(f"\n    {line}" for line in lines) or " none"
        super().__init__(f"rank {rank} ended with {what}; its last lines:{shown}\n  full log: {log}")


def _name_of_signal(number: int) -> str:
    return next((one.name for one in signal.Signals if one == number), "unnamed")


def free_port() -> int:
    """A port that nobody listens on now: each start has its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(
    module: str,
    arguments: Sequence[str],
    *,
    ranks: int,
    log_dir: str,
    threads: int | None = None,
    env: Mapping[str, str] | None = None,
    on_start: Callable[[list[int]], None] | None = None,
) -> None:
    """Run `python -P -m module arguments...` as `ranks` ranks and wait for all of them.

    Args:
        threads: OMP_NUM_THREADS of each rank; none leaves it.
        on_start: gets the process ids.
    Raises:
        RankFailure: the first rank that failed; the others are ended.
    """
    folder = Path(log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes: list[subprocess.Popen[bytes]] = []
    files: list[Any] = []
    echo: threading.Thread | None = None
    try:
        for rank in range(ranks):
            log = (folder / f"rank-{rank}.log").open("ab", buffering=0)
            log.write(f"{START} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            files.append(log)
            out: Any = subprocess.PIPE if rank == 0 else log
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", module, *arguments],
                    env=_environment(rank, ranks, port, threads, env),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    preexec_fn=partial(_die_with_parent, os.getpid()),
                )
            )
        echo = threading.Thread(target=_echo, args=(processes[0], files[0]), daemon=True)
        echo.start()
        if on_start is not None:
            on_start([process.pid for process in processes])
        failed = _wait(processes)
    finally:
        _end(processes)
        if echo is not None:
            echo.join(timeout=5)
        for log in files:
            log.close()
    if failed:
        cause = _cause(failed, processes, folder)
        path = folder / f"rank-{cause}.log"
        raise RankFailure(cause, processes[cause].returncode, path, last_lines(path))


def _environment(
    rank: int, ranks: int, port: int, threads: int | None, more: Mapping[str, str] | None
) -> dict[str, str]:
    env = dict(os.environ)
    env |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
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


def _die_with_parent(parent: int) -> None:
    """Linux: the kernel ends a rank when its launcher dies, however that happens."""
    pr_set_pdeathsig = 1
    LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def _echo(process: "subprocess.Popen[bytes]", log: Any) -> None:
    """Copy rank 0's output to its log and to the console. A console that went away does not stop the rank."""
    assert process.stdout is not None
    console = True
    for line in iter(process.stdout.readline, b""):
        log.write(line)
        if console:
            try:
                sys.stdout.write(line.decode(errors="replace"))
                sys.stdout.flush()
            except (OSError, ValueError) as error:
                console = False
                log.write(f"--- the console is gone ({error}): the output goes on here only\n".encode())


def _wait(processes: "list[subprocess.Popen[bytes]]") -> list[int]:
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


def _cause(failed: list[int], processes: "list[subprocess.Popen[bytes]]", folder: Path) -> int:
    """Of ranks that failed together: one that does not merely miss its peer; among these, one that a signal ended."""

    def blame(rank: int) -> tuple[bool, bool, int]:
        missing = any(mark in line for line in last_lines(folder / f"rank-{rank}.log") for mark in LOST_PEER)
        return (missing, processes[rank].returncode >= 0, failed.index(rank))

    return min(failed, key=blame)


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_lines(path: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines of a log that belong to its latest start, without reading all of it."""
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 64 * 1024))
        lines = stream.read().decode(errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(START)]
    return lines[starts[-1] + 1 if starts else 0 :][-count:]
