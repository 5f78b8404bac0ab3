"""A process that has done the heavy imports once, and forks ranks: a start takes tenths of a second, not ten seconds.

`python -P -m cluster.warm FD MODULE:FUNCTION MODULES...` imports MODULES, then reads requests from its end of a socket pair:
{"arguments", "env"} and the descriptor that is to be standard output and error. Each becomes a child that calls FUNCTION.
Answers: {"pid"}, and {"pid", "status"} when one ended. It starts no thread, and no GPU is touched before the fork.
"""

import array
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any

LIBC = ctypes.CDLL(None)
POLL_SECONDS = 0.02
MOST_BYTES = 1 << 20


def die_with_parent(parent: int) -> None:
    """Linux: the kernel ends this process when its parent dies, however that happens."""
    pr_set_pdeathsig = 1
    LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def send_request(link: socket.socket, request: dict[str, Any], output: int) -> None:
    """Ask for a rank whose output goes to the descriptor `output`."""
    data = json.dumps(request).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [output]))]
    link.sendmsg([data], rights)


def serve(link: socket.socket, target: str) -> None:
    """Fork ranks as they are asked for, until the launcher is gone."""
    descriptors = socket.CMSG_SPACE(array.array("i", [0]).itemsize)
    while True:
        ready, _, _ = select.select([link], [], [], POLL_SECONDS)
        if ready:
            data, ancillary, _, _ = link.recvmsg(MOST_BYTES, descriptors)
            if not data:
                return
            (output,) = array.array("i", ancillary[0][2])
            own = os.getpid()
            pid = os.fork()
            if pid == 0:
                link.close()
                _become(target, json.loads(data), output, own)
            os.close(output)
            link.send(json.dumps({"pid": pid}).encode())
        _report(link)


def _report(link: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        link.send(json.dumps({"pid": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


def _become(target: str, request: dict[str, Any], output: int, parent: int) -> None:
    """In the child of `parent`, which may be gone already: be a rank, and never return."""
    code = 1
    try:
        die_with_parent(parent)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.environ.clear()
        os.environ.update(request["env"])
        module, _, function = target.partition(":")
        sys.argv = [module, *request["arguments"]]
        gc.unfreeze()
        getattr(importlib.import_module(module), function)()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(arguments: list[str]) -> None:
    link = socket.socket(fileno=int(arguments[0]))
    die_with_parent(int(arguments[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    for module in arguments[3:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # collections in ranks leave the pages of what was imported shared
    serve(link, arguments[2])


if __name__ == "__main__":
    main(sys.argv[1:])
