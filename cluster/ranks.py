"""Ranks as processes of this machine: forked from a warm process, or started afresh where a GPU is."""

import glob
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cluster.warm import die_with_parent, send_request
from configs.errors import RunError

WARM_SECONDS = 120.0
"""Imports on a cold file system take their time."""
MOST_BYTES = 1 << 16


class Rank:
    """One rank, like a Popen: `pid`, `returncode` after it ended."""

    def __init__(self, pid: int, nursery: "Nursery | None" = None, process: "subprocess.Popen[bytes] | None" = None):
        self.pid, self._nursery, self._process = pid, nursery, process
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code (minus a signal's number), None while it runs."""
        if self._process is not None:
            self.returncode = self._process.poll()
        elif self._nursery is not None and self.returncode is None:
            self.returncode = self._nursery.status(self.pid)
        return self.returncode

    def signal(self, number: int) -> None:
        """Send a signal to a rank that still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Nursery:
    """Where ranks come from. One is kept over all attempts of a job, so that only the first pays for imports.

    Args:
        target: MODULE:FUNCTION that a rank runs.
        modules: imported before the first rank is asked for.
        env: of the warm process; thread counts are read at import.
    """

    def __init__(self, target: str, modules: Sequence[str], env: Mapping[str, str], warm: bool | None = None):
        self.target, self.modules, self.env = target, modules, dict(env)
        self.warm = can_be_warm() if warm is None else warm
        self._link: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: dict[int, int] = {}

    def start(self, arguments: Sequence[str], env: Mapping[str, str], output: int) -> Rank:
        """A rank with these arguments and environment; its output goes to the descriptor `output`."""
        if not self.warm:
            return self._afresh(arguments, env, output)
        if self._link is None:
            self._begin()
        assert self._link is not None
        send_request(self._link, {"arguments": list(arguments), "env": dict(env)}, output)
        while True:
            told = self._hear(WARM_SECONDS)
            if told is None:
                raise RunError(
                    "the process that starts ranks did not answer: start the job again, or set LOOKSAY_WARM=0"
                )
            if "status" not in told:
                return Rank(told["pid"], nursery=self)
            self._ended[told["pid"]] = told["status"]

    def status(self, pid: int) -> int | None:
        """The exit code of a rank that ended."""
        while self._link is not None and pid not in self._ended:
            told = self._hear(0.0)
            if told is None:
                break
            self._ended[told["pid"]] = told["status"]
        if pid not in self._ended and self._process is not None and self._process.poll() is not None:
            return -signal.SIGKILL  # its parent died, and it with it
        return self._ended.get(pid)

    def _begin(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "cluster.warm", str(theirs.fileno()), str(os.getpid()), self.target]
        self._process = subprocess.Popen(
            [*command, *self.modules], env=self.env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()

    def _hear(self, seconds: float) -> dict[str, Any] | None:
        assert self._link is not None
        ready, _, _ = select.select([self._link], [], [], seconds)
        if not ready:
            return None
        data = self._link.recv(MOST_BYTES)
        if not data:
            code = self._process.wait(10) if self._process is not None else None
            self._link.close()
            self._link = None
            raise RunError(f"the process that starts ranks ended with exit code {code}: see its output above")
        told: dict[str, Any] = json.loads(data)
        return told

    def _afresh(self, arguments: Sequence[str], env: Mapping[str, str], output: int) -> Rank:
        module, _, function = self.target.partition(":")
        code = f"import {module} as m; m.{function}()"
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *arguments],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        return Rank(process.pid, process=process)

    def close(self) -> None:
        """End the warm process, and with it what is left of its ranks."""
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def can_be_warm() -> bool:
    """A GPU that was touched before a fork is lost to the child; libraries may touch it when they are imported."""
    asked = os.environ.get("LOOKSAY_WARM", "")
    return asked == "1" or (asked != "0" and sys.platform == "linux" and not glob.glob("/dev/nvidia[0-9]*"))
