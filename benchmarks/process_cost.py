"""What a command costs with all its processes: CPU seconds, wall seconds, peak memory.

    cost = measure(["looksay", ...], core=0, environment={...}, log=path)

CPU is counted by the kernel in a control group made for the run (v1 cpuacct, or v2 cpu.stat), so daemons that outlive
their parent count too. Without the right to make one, children that were waited for are counted (getrusage), and `method`
says so: Ray's daemons are then missing. Memory is the largest sum of PSS (shared pages count once) seen once a second.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    user: float  # seconds
    system: float
    wall: float
    peak: float  # MB
    method: str

    @property
    def cpu(self) -> float:
        return self.user + self.system


class Group:
    """A control group of its own, or nothing where none can be made (`path` is None then)."""

    def __init__(self) -> None:
        self.path, self.method = None, "getrusage of children that were waited for"
        for mount, kind in _mounts():
            path = mount / f"looksay-bench-{os.getpid()}-{time.monotonic_ns()}"
            with contextlib.suppress(OSError):
                path.mkdir()
                self.path, self.method, self.kind = path, f"cgroup {kind}", kind
                return

    def join(self) -> None:
        """Called in the child before it becomes the command."""
        if self.path is not None:
            (self.path / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    def members(self) -> list[int]:
        if self.path is None:
            return []
        return [int(line) for line in (self.path / "cgroup.procs").read_text(encoding="ascii").split()]

    def seconds(self) -> tuple[float, float]:
        """User and system seconds so far."""
        if self.path is None:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime, used.ru_stime
        if self.kind == "v1":
            user, system = (
                int((self.path / f"cpuacct.usage_{k}").read_text(encoding="ascii")) for k in ("user", "sys")
            )
            return user / 1e9, system / 1e9
        fields = dict(line.split() for line in (self.path / "cpu.stat").read_text(encoding="ascii").splitlines())
        return int(fields["user_usec"]) / 1e6, int(fields["system_usec"]) / 1e6

    def drain(self) -> None:
        """Wait for what the command left behind, then end it: only processes of this group, which it started."""
        for wait in (10.0, 10.0):
            end = time.monotonic() + wait
            while self.members() and time.monotonic() < end:
                time.sleep(0.1)
            for pid in self.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        if self.path is not None:
            self.path.rmdir()


def measure(
    command: list[str], *, core: int | None, environment: dict[str, str], log: Path, timeout: float = 3600.0
) -> Cost:
    """Run `command` pinned to `core` with `environment` added; its output goes to `log`.

    Ends the program with the log's end if the command fails or takes longer than `timeout` seconds.
    """
    group = Group()
    peak, stop = [0.0], threading.Event()
    watch = threading.Thread(target=_watch, args=(group, peak, stop), daemon=True)
    before, start = group.seconds(), time.monotonic()
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            preexec_fn=_preparer(group, core),  # no threads yet: the watcher starts below
            start_new_session=True,
        )
        watch.start()
        try:
            code = process.wait(timeout=timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            code = -9
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            wall = time.monotonic() - start
            stop.set()
            watch.join()
            group.drain()
            used = group.seconds()
            group.remove()
    if code:
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        sys.exit(f"{' '.join(command)}: exit code {code} after {wall:.0f} s:\n" + "\n".join(tail))
    return Cost(used[0] - before[0], used[1] - before[1], wall, peak[0], group.method)


def _preparer(group: Group, core: int | None) -> Callable[[], None]:
    def prepare() -> None:
        group.join()
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


def _watch(group: Group, peak: list[float], stop: threading.Event) -> None:
    while not stop.wait(1.0):
        with contextlib.suppress(OSError):
            peak[0] = max(peak[0], sum(_pss(pid) for pid in group.members()))


def _pss(pid: int) -> float:
    """Megabytes; 0 where the process has just ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _mounts() -> list[tuple[Path, str]]:
    """This process' own place in the hierarchies that count CPU: v1's cpuacct first."""
    own = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), path))
    found: list[tuple[Path, str]] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text(encoding="ascii").splitlines():
            _, mount, kind, options, *_ = line.split()
            if kind == "cgroup" and "cpuacct" in options.split(","):
                found.insert(0, (Path(mount + own.get("cpuacct", "/")), "v1"))
            elif kind == "cgroup2":
                found.append((Path(mount + own.get("", "/")), "v2"))
    return found
