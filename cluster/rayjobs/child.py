"""A process whose output is read bit by bit, and which dies with this one."""

import codecs
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial

from cluster.warm import die_with_parent

MOST_BYTES = 1 << 18


class Child:
    """A command, its standard output and error together.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, words: Sequence[str], cwd: str | None = None, env: Mapping[str, str] | None = None):
        self._process = subprocess.Popen(
            list(words),
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def look(self) -> tuple[int | None, str]:
        """The exit code as a shell has it (128 + a signal), None while it runs; and what it printed since the last look."""
        code = self._process.poll()  # before the output is read, so that nothing it printed is left behind
        data = b""
        while len(data) < MOST_BYTES:
            try:
                part = os.read(self._output, 1 << 16)
            except BlockingIOError:
                break
            if not part:
                break
            data += part
        else:
            code = None  # there may be more
        text = self._decoder.decode(data, final=code is not None)
        return (128 - code if code is not None and code < 0 else code), text

    def signal(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it now, and wait for that."""
        self.signal(signal.SIGKILL)
        self._process.wait()
