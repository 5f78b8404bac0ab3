"""A TCP proxy before an HTTP server that spoils requests: by plan, so many times, then it is honest again.

Each request gets its own connection to the server (`Connection: close` is added), so faults count requests.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

SECONDS = 60.0
"""Longest life of any connection."""

Kind = Literal["reset", "busy", "slow", "cut", "cut upload", "lost answer", "hang"]


@dataclass
class Fault:
    """What happens to requests whose first line contains `match`, the first `times` of them (after `skip`).

    reset: the connection breaks before an answer      busy: 503 SlowDown
    slow: the answer waits `seconds`                   cut: the answer breaks after `after` bytes
    cut upload: the request breaks after `after` bytes of its body, nothing comes back
    lost answer: the server does as asked, its answer is thrown away      hang: nothing comes for `seconds`
    """

    kind: Kind
    match: str = ""
    times: int = 1
    skip: int = 0
    after: int = 1000
    seconds: float = 1.0


@dataclass
class FaultProxy:
    """Listens on loopback, forwards to `server` (an http:// URL). `requests` has every first line that came."""

    server: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        target = urlsplit(self.server)
        self._target = (target.hostname or "127.0.0.1", target.port or 80)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._listener.close()

    def count(self, match: str) -> int:
        with self._lock:
            return sum(match in line for line in self.requests)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(SECONDS)
        with contextlib.closing(client), contextlib.suppress(OSError):
            head, rest = _read_head(client)
            if head:
                self._answer(client, head, rest)
            client.shutdown(socket.SHUT_RDWR)  # a thread that still reads from it would hold it open

    def _fault(self, line: str) -> Fault | None:
        with self._lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault.match in line and fault.times > 0:
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def _answer(self, client: socket.socket, head: bytes, rest: bytes) -> None:
        line, _, fields = head.partition(b"\r\n")
        fault = self._fault(line.decode("latin-1"))
        kind = fault.kind if fault else None
        if fault and kind == "reset":
            return _break(client)
        if fault and kind == "hang":
            time.sleep(fault.seconds)
            return _break(client)
        if fault and kind == "busy":
            return _say_busy(client, fields, rest)
        with contextlib.closing(socket.create_connection(self._target, timeout=SECONDS)) as server:
            server.sendall(line + b"\r\nConnection: close\r\n" + fields + rest)
            limit = fault.after if fault and kind == "cut upload" else None
            sender = threading.Thread(target=_relay, args=(client, server, limit), daemon=True)
            sender.start()
            if fault and kind == "cut upload":
                threading.Thread(target=_relay, args=(server, client), daemon=True).start()  # its "100 Continue"
                sender.join(SECONDS)
                server.shutdown(socket.SHUT_RDWR)
                return _break(client)
            if fault and kind == "slow":
                time.sleep(fault.seconds)
            if fault and kind == "lost answer":
                while piece := server.recv(65536):
                    if piece.startswith(b"HTTP/1.1 100"):  # the client waits for it before it sends the body
                        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                return _break(client)
            if _relay(server, client, fault.after if fault and kind == "cut" else None):
                _break(client)


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece or len(data) > 2**20:
            return b"", b""
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, b"\r\n\r\n" + rest


def _relay(source: socket.socket, sink: socket.socket, limit: int | None = None) -> bool:
    """Copy until the source ends, or `limit` bytes went through (True)."""
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            if limit is not None and len(piece) >= limit:
                sink.sendall(piece[:limit])
                return True
            sink.sendall(piece)
            limit = None if limit is None else limit - len(piece)
    return False


def _say_busy(client: socket.socket, fields: bytes, rest: bytes) -> None:
    """503, after the body was taken (unless the client waits to be asked for it)."""
    sizes = [line.split(b":")[1] for line in fields.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(sizes[0]) - (len(rest) - 4) if sizes and b"100-continue" not in fields.lower() else 0
    while left > 0 and (piece := client.recv(65536)):
        left -= len(piece)
    body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    head = f"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)


def _break(client: socket.socket) -> None:
    """Reset, not an orderly end."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RD)  # wakes who still reads from it: only then does the close go out
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@contextlib.contextmanager
def spoiling(server: str, *faults: Fault) -> Iterator[FaultProxy]:
    proxy = FaultProxy(server, list(faults))
    try:
        yield proxy
    finally:
        proxy.close()
