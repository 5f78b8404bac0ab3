"""What runs on one of a job's nodes, as an actor of Ray: it starts the command there, which starts the node's ranks."""

import os
import socket
from collections.abc import Mapping, Sequence

from cluster.launch import free_port
from cluster.rayjobs.child import Child


class Launcher:
    """One node of a job. Every method answers at once, so that silence means that the node is gone."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def meet(self, address: str) -> tuple[str, int]:
        """This machine's name, and a port at which ranks can meet."""
        return socket.gethostname(), free_port(address)

    def begin(self, words: Sequence[str], cwd: str | None, env: Mapping[str, str]) -> str | None:
        """Start the command; returns why not, if so."""
        if cwd is not None and not os.path.isdir(cwd):
            return (
                f"{socket.gethostname()} has no folder {cwd}: submit from a folder on a file system that all nodes see"
            )
        try:
            self._child = Child(words, cwd, {**os.environ, **env})
        except OSError as error:
            return f"{words[0]} does not start on {socket.gethostname()} ({error.strerror}): set scheduler.looksay"
        return None

    def look(self) -> tuple[int | None, str]:
        """Exit code of the command, None while it runs; what it printed since the last look."""
        assert self._child is not None
        return self._child.look()

    def signal(self, number: int) -> None:
        if self._child is not None:
            self._child.signal(number)
