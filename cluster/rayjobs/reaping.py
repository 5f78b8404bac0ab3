"""The end of everything that descends from this process. Ray's daemons leave their parent's group, `ray stop` ends other jobs' too."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SECONDS = 10.0


def adopt_orphans() -> None:
    """Linux: descendants whose parent ends become this process's children, so that none is lost from sight."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, nearest first."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for word in (task / "children").read_text().split():
                found += [int(word), *descendants(int(word))]
    return found


def end_descendants(grace: float = 0.0) -> None:
    """SIGTERM, and after `grace` seconds SIGKILL, to all that descends from this process."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, SECONDS)):
        end = time.monotonic() + seconds
        while True:
            _reap()
            left = descendants(os.getpid())
            if not left or time.monotonic() > end:
                break
            if number == signal.SIGKILL or time.monotonic() > end - seconds:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            time.sleep(0.05)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
