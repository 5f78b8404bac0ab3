"""A web server that behaves badly on demand: each way is a path, so whole builds can meet it too.

    with HostileServer() as server:
        server.url("/trickle.jpg")

or `python -m tests.support.hostile --port 8000`. `CASES` says what the fetcher has to make of each path; every path
below /good/ is a sound picture.
"""

import argparse
import asyncio
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.support.hostile_answers import ANSWERS, Request

CASES: dict[str, str | None] = {
    "/trickle.jpg": "deadline",
    "/trickle-head.jpg": "deadline",
    "/silent.jpg": "deadline",
    "/endless.jpg": "too_large",
    "/endless-chunks.jpg": "too_large",
    "/huge.jpg": "too_large",
    "/long.jpg": "truncated",
    "/long-open.jpg": "deadline",
    "/short.jpg": "bad_answer",
    "/short-late.jpg": None,
    "/loop.jpg": "too_many_redirects",
    "/to-private.jpg": "private_address",
    "/to-file.jpg": "scheme",
    "/to-nowhere.jpg": "bad_url",
    "/gzip-bomb.jpg": "too_large",
    "/gzip-cut.jpg": "truncated",
    "/gzip-not.jpg": "content_encoding",
    "/gzip-claimed.jpg": None,
    "/gzip-twice.jpg": "content_encoding",
    "/gzip.jpg": None,
    "/deflate.jpg": None,
    "/deflate-bare.jpg": None,
    "/br.jpg": "content_encoding",
    "/png-bomb.png": None,
    "/html.jpg": None,
    "/truncated.jpg": None,
    "/empty.jpg": None,
    "/garbage.jpg": "bad_answer",
    "/reset.jpg": "connection",
    "/headers.jpg": "bad_answer",
    "/continue.jpg": "deadline",
    "/two-lengths.jpg": "bad_answer",
    "/busy.jpg?after=1": None,
    "/busy.jpg?after=99": "http_429",
    "/status/404.jpg": "http_404",
    "/status/500.jpg": "http_500",
    "/opt-out.jpg?noai": "opt_out",
    "/denied/picture.jpg": "robots_txt",
}
"""Path -> the fetcher's reason; None: it hands out bytes, and what is wrong with them is the decoder's to find.

By a deadline of 3 s or more, `max_bytes` below hostile_pictures.UNPACKED, and `allow_private` (the address of
/to-private.jpg is refused all the same).
"""

ROBOTS = b"User-agent: *\nDisallow: /denied/\n"


@dataclass(frozen=True)
class Seen:
    """A request: target, `Host`, the server's own address it came to, its headers (lower case), when."""

    target: str
    host: str
    address: str
    headers: dict[str, str]
    time: float


@dataclass
class Log:
    """What the server saw. `running` and `most` count requests that it was answering at once; `names` are SNI."""

    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    names: list[str | None] = field(default_factory=list)
    running: int = 0
    most: int = 0

    def count(self, target: str) -> int:
        return sum(one.target == target for one in self.seen)


class HostileServer:
    """Listens on all addresses of loopback, in a thread of this process. `robots`: status, body, header lines."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.log = Log()
        self.robots: tuple[int, bytes, tuple[str, ...]] = (200, ROBOTS, ())
        self.port = port
        self._context = context
        self._times: Counter[str] = Counter()
        if context is not None:
            context.sni_callback = lambda _, name, __: self.log.names.append(name)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http{'s' if self._context else ''}://{host}:{self.port}{path}"

    def reset(self) -> None:
        self.log = Log()
        self.robots = (200, ROBOTS, ())
        self._times.clear()

    def __enter__(self) -> "HostileServer":
        started = threading.Event()
        self._loop = asyncio.new_event_loop()

        async def start() -> None:
            server = await asyncio.start_server(self._serve, "0.0.0.0", self.port, ssl=self._context, backlog=512)
            self.port = server.sockets[0].getsockname()[1]
            started.set()

        def run() -> None:
            starting = self._loop.create_task(start())
            self._loop.run_forever()
            starting.result()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.log.connections += 1
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = [line.partition(":") for line in head[1:] if line]
                headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
                target = head[0].split(" ")[1]
                address = writer.get_extra_info("sockname")[0]
                log = self.log
                log.seen.append(Seen(target, headers.get("host", ""), address, headers, time.monotonic()))
                log.running += 1
                log.most = max(log.most, log.running)
                try:
                    await self._answer(target, headers, writer)
                finally:
                    log.running -= 1
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return  # the client went away, or the server ends
        finally:
            writer.close()

    async def _answer(self, target: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        path, _, query = target.partition("?")
        self._times[target] += 1
        request = Request(path, query, headers, self._times[target], writer)
        if path == "/robots.txt":
            status, body, lines = self.robots
            request.send(body, *lines, status=status, kind="text/plain")
            return
        answer = ANSWERS.get(path.split("/")[1].split(".")[0])
        if answer is None:
            request.send(b"no such case", status=404, kind="text/plain")
        else:
            await answer(request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    with HostileServer(parser.parse_args().port) as server:
        print(server.url("/"), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
