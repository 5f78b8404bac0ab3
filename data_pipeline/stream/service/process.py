"""The planner process: plans two windows ahead, and answers every rank of the node, until they are gone.

Started as `python -m data_pipeline.stream.service.process FD PARENT`. The first message is the recipe; then it listens on
an abstract Unix socket, which has no file and is gone with the process. Only processes of the same user are answered.
"""

import os
import secrets
import signal
import socket
import struct
import sys
import threading
from typing import Any

from configs.errors import RunError, UserError
from configs.schema import RECIPE, TrainRecipe
from data_pipeline.stream.plan.planner import Planner
from data_pipeline.stream.prefetch.transport import receive, send
from data_pipeline.stream.prefetch.worker import die_with_parent

AHEAD = 2
"""Windows planned before they are asked for."""
CREDENTIALS = struct.Struct("3i")


class Service:
    """A planner and the thread that runs ahead of what was asked."""

    def __init__(self, planner: Planner):
        self.planner = planner
        self._lock, self._wanted = threading.Lock(), threading.Condition()
        self._last = -1
        threading.Thread(target=self._run_ahead, daemon=True).start()

    def answer(self, header: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """The answer to a question of client.py."""
        match header["ask"]:
            case "step":
                with self._lock:
                    planned = self.planner.step(header["step"])
                self._ahead_of(header["step"])
                return {}, planned.to_bytes()
            case "state":
                with self._lock:
                    return {"state": self.planner.state(header["step"])}, b""
            case "restore":
                with self._lock:
                    self.planner.restore(header["state"])
                return {}, b""
            case "ids_hash":
                with self._lock:
                    return {"hash": self.planner.ids_hash(header["step"])}, b""
        raise RunError(f"the planner does not know {header['ask']!r}")

    def _ahead_of(self, step: int) -> None:
        with self._wanted:
            self._last = self.planner.window_of(step)
            self._wanted.notify()

    def _run_ahead(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait()
                last = self._last
            for window in range(last + 1, last + 1 + AHEAD):
                with self._lock:
                    self.planner.window(window)


class Clients:
    """How many ranks are connected."""

    def __init__(self) -> None:
        self._count, self._changed = 0, threading.Condition()

    def add(self, number: int) -> None:
        with self._changed:
            self._count += number
            self._changed.notify_all()

    def wait_until_none(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0)


def serve(service: Service, listener: socket.socket, clients: Clients) -> None:
    """Answer clients, a thread each."""
    while True:
        link, _ = listener.accept()
        _, uid, _ = CREDENTIALS.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        if uid != os.getuid():
            link.close()
            continue
        clients.add(1)
        threading.Thread(target=_talk, args=(service, link, clients), daemon=True).start()


def _talk(service: Service, link: socket.socket, clients: Clients) -> None:
    try:
        with link:
            while True:
                header, _, _ = receive(link)
                try:
                    answer, body = service.answer(header)
                except (UserError, RunError) as error:
                    answer, body = {"error": str(error), "kind": type(error).__name__}, b""
                send(link, answer, body)
    except (EOFError, OSError):
        return  # this rank is gone
    finally:
        clients.add(-1)


def main() -> None:
    parent = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        header, _, _ = receive(parent)
        recipe = RECIPE.validate_python(header["recipe"])
        assert isinstance(recipe, TrainRecipe)
        from data_pipeline.stream.tables import open_data

        planner = open_data(recipe, plan_log=header["log"], write_log=header["write"]).planner
        listener = socket.socket(socket.AF_UNIX)
        name = f"looksay-plan-{os.getuid()}-{secrets.token_hex(16)}"
        listener.bind("\0" + name)
        listener.listen(256)
        clients = Clients()
        threading.Thread(target=serve, args=(Service(planner), listener, clients), daemon=True).start()
        send(parent, {"address": name, "fingerprint": planner.fingerprint})
    except EOFError:
        return
    except (UserError, RunError) as error:
        send(parent, {"error": str(error), "kind": type(error).__name__})
        return
    try:
        receive(parent)  # nothing comes
    except (EOFError, OSError):
        clients.wait_until_none()  # the rank that started it may be done before others of the node are


if __name__ == "__main__":
    main()
