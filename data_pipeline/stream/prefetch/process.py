"""A worker process as its parent sees it: started afresh, asked one thing at a time, found dead or hung."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from configs.errors import RunError, UserError
from data_pipeline.stream.prefetch.transport import receive, send

ROOT = str(Path(__file__).resolve().parents[3])
END_SECONDS = 5.0


class Gone(Exception):
    """The process ended, or did not answer in time. The message says how."""


class Child:
    """A process of `module`, which takes a descriptor of its end of a socket pair and our process id.

    Args:
        what: its name in sentences.
    """

    def __init__(self, module: str, what: str, arguments: tuple[str, ...] = ()):
        self.what = what
        self.link, theirs = socket.socketpair()
        paths = [ROOT, os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        # One thread each for what numpy and others would start: processes are what runs side by side here.
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        command = [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid()), *arguments]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        theirs.close()

    def ask(
        self, header: dict[str, Any], body: bytes = b"", seconds: float = 300.0
    ) -> tuple[dict[str, Any], bytes, int | None]:
        """A message, and the answer to it.

        Raises:
            Gone: the process ended, or took longer than `seconds` (then it is killed).
            UserError, RunError: what it met, as it says it.
        """
        self.link.settimeout(seconds)
        try:
            send(self.link, header, body)
            answer = receive(self.link)
        except TimeoutError:
            self.kill()
            raise Gone(f"{self.what} did not answer for {seconds:.0f} s and was killed") from None
        except (EOFError, OSError):
            raise Gone(f"{self.what} {self._ending()}") from None
        if "error" in answer[0]:
            raise (UserError if answer[0]["kind"] == "UserError" else RunError)(answer[0]["error"])
        return answer

    def _ending(self) -> str:
        try:
            code = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return "closed its connection"
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        memory = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"was ended by {name}{memory}"

    def kill(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait(END_SECONDS)
        self.link.close()

    def close(self) -> None:
        """Let it end; kill it if it does not."""
        self.link.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_SECONDS)
