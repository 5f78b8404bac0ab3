"""How the hostile server answers: a function per path, bytes written by hand, as no HTTP library would send these."""

import asyncio
import email.utils
import itertools
import socket
import struct
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.support.hostile_pictures import gzip_bomb, packed, picture, png_bomb

METADATA = "http://169.254.169.254/latest/meta-data/"
GIGABYTE = 10**9


@dataclass
class Request:
    """One request and the way to answer it. `times` counts the requests for this target so far, this one too."""

    path: str
    query: str
    headers: dict[str, str]
    times: int
    writer: asyncio.StreamWriter

    def head(self, *lines: str, status: int = 200, kind: str = "image/jpeg") -> None:
        text = "\r\n".join([f"HTTP/1.1 {status} Said", f"Content-Type: {kind}", *lines, "", ""])
        self.writer.write(text.encode("latin-1"))

    def send(self, body: bytes, *lines: str, status: int = 200, kind: str = "image/jpeg") -> None:
        self.head(f"Content-Length: {len(body)}", *lines, status=status, kind=kind)
        self.writer.write(body)

    def redirect(self, to: str) -> None:
        self.send(b"moved", f"Location: {to}", status=302, kind="text/plain")

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        """A byte each 50 ms."""
        for number in range(len(data)):
            await self.write(data[number : number + 1])
            await asyncio.sleep(0.05)


async def good(r: Request) -> None:
    """A picture, by the path's digits; /good/slow... takes 0.1 s."""
    if "slow" in r.path:
        await asyncio.sleep(0.1)
    r.send(picture(int("".join(filter(str.isdigit, r.path)) or 0) % 10))


async def trickle(r: Request) -> None:
    r.head(f"Content-Length: {len(picture())}")
    await r.drip(picture())


async def endless(r: Request) -> None:
    r.head("Connection: close")
    while True:
        await r.write(bytes(2**16))


async def endless_chunks(r: Request) -> None:
    r.head("Transfer-Encoding: chunked")
    while True:
        await r.write(b"10000\r\n" + bytes(2**16) + b"\r\n")


async def huge(r: Request) -> None:
    r.head(f"Content-Length: {GIGABYTE}")
    await r.drip(picture())


async def long(r: Request) -> None:
    """Announces more than it sends; /long-open.jpg leaves the connection open after it."""
    r.head(f"Content-Length: {len(picture()) + 1000}")
    r.writer.write(picture())
    if r.path == "/long.jpg":
        r.writer.close()
    else:
        await asyncio.sleep(3600)


async def short(r: Request) -> None:
    """Announces half of what it sends; the rest comes in the same segment, or after it (/short-late.jpg).

    /short-answer.jpg: what comes after it looks like another answer.
    """
    half = len(picture()) // 2
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {half}\r\n\r\n".encode()
    if r.path == "/short.jpg":
        r.writer.write(head + picture())
        return
    await r.write(head + picture()[:half])
    await asyncio.sleep(0.05)
    if r.path == "/short-answer.jpg":
        r.send(picture(9))
    else:
        await r.write(picture()[half:])


async def hop(r: Request) -> None:
    """/hop/3.jpg redirects three times, then is a picture."""
    left = int(r.path.split("/")[2].split(".")[0])
    r.redirect(f"/hop/{left - 1}.jpg") if left else r.send(picture())


async def large(r: Request) -> None:
    """/large.jpg?BYTES, /large.jpg?BYTES&chunked"""
    size, _, chunked = r.query.partition("&")
    if not chunked:
        r.send(bytes(int(size)))
        return
    r.head("Transfer-Encoding: chunked")
    r.writer.write(b"%x\r\n" % int(size) + bytes(int(size)) + b"\r\n0\r\n\r\n")


async def stall(r: Request) -> None:
    """/stall.jpg?BYTES come at once, the last one never."""
    r.head(f"Content-Length: {int(r.query) + 1}")
    await r.write(bytes(int(r.query)))
    await asyncio.sleep(3600)


async def status(r: Request) -> None:
    """/status/CODE.jpg, with a page that comes a little later than the headers."""
    code = int(r.path.split("/")[2].split(".")[0])
    body = b"" if code in (204, 304) else b"<h1>no</h1>" * 100
    r.head(f"Content-Length: {len(body)}", status=code, kind="text/html")
    await asyncio.sleep(0.02)
    await r.write(body)


async def garbage(r: Request) -> None:
    r.writer.write(b"\x00\x01\x02SSH-2.0-OpenSSH\r\n" * 100)
    r.writer.close()


async def reset(r: Request) -> None:
    linger = struct.pack("ii", 1, 0)  # closing sends RST
    r.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    r.writer.transport.abort()


async def many_headers(r: Request) -> None:
    r.writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        await r.write(f"X-Header-{number}: {'x' * 8000}\r\n".encode())


async def continues(r: Request) -> None:
    while True:
        await r.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.01)


async def busy(r: Request) -> None:
    """Says no to the first request, or the first `times`: /busy.jpg?after=1&times=2&date=1&status=503&key=any"""
    options = dict(urllib.parse.parse_qsl(r.query))
    if r.times > int(options.get("times", 1)):
        r.send(picture())
        return
    after = options.get("after", "")
    if options.get("date"):
        after = email.utils.formatdate(time.time() + int(after), usegmt=True)
    lines = [f"Retry-After: {after}"] if after else []
    r.send(b"busy", *lines, status=int(options.get("status", 429)), kind="text/plain")


async def part(r: Request) -> None:
    """A file that is served in parts; ?whole: by a server that ignores `Range`; ?other: that sends another part."""
    span = r.headers.get("range", "").removeprefix("bytes=")
    if not span or r.query == "whole":
        r.send(picture())
        return
    first, last = (int(word) for word in span.split("-"))
    if r.query == "other":
        first, last = first + 1, last + 1
    body = picture()[first : last + 1]
    r.send(body, f"Content-Range: bytes {first}-{first + len(body) - 1}/{len(picture())}", status=206)


async def silent(r: Request) -> None:
    await asyncio.sleep(3600)


def at_once(answer: Callable[[Request], None]) -> Callable[[Request], Awaitable[None]]:
    async def function(r: Request) -> None:
        answer(r)

    return function


ANSWERS: dict[str, Callable[[Request], Awaitable[None]]] = {
    "good": good,
    "denied": good,
    "trickle": trickle,
    "trickle-head": lambda r: r.drip(b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 1000),
    "silent": silent,
    "endless": endless,
    "endless-chunks": endless_chunks,
    "huge": huge,
    "long": long,
    "long-open": long,
    "short": short,
    "short-late": short,
    "short-answer": short,
    "loop": at_once(lambda r: r.redirect(r.path)),
    "hop": hop,
    "to": at_once(lambda r: r.redirect(urllib.parse.unquote(r.query))),  # /to.jpg?ESCAPED-URL
    "to-private": at_once(lambda r: r.redirect(METADATA)),
    "to-file": at_once(lambda r: r.redirect("file:///etc/passwd")),
    "to-nowhere": at_once(lambda r: r.redirect("http://[::1/")),
    "gzip-bomb": at_once(lambda r: r.send(gzip_bomb(), "Content-Encoding: gzip")),
    "gzip-cut": at_once(lambda r: r.send(packed(picture(), 31)[:-100], "Content-Encoding: gzip")),
    "gzip-not": at_once(lambda r: r.send(b"\x1f\x8b" + picture(), "Content-Encoding: gzip")),
    "gzip-claimed": at_once(lambda r: r.send(picture(), "Content-Encoding: gzip")),
    "gzip-twice": at_once(lambda r: r.send(packed(packed(picture(), 31), 31), "Content-Encoding: gzip, gzip")),
    "gzip": at_once(lambda r: r.send(packed(picture(), 31), "Content-Encoding: x-gzip")),
    "deflate": at_once(lambda r: r.send(packed(picture(), 15), "Content-Encoding: deflate")),
    "deflate-bare": at_once(lambda r: r.send(packed(picture(), -15), "Content-Encoding: deflate")),
    "br": at_once(lambda r: r.send(picture(), "Content-Encoding: br")),
    "png-bomb": at_once(lambda r: r.send(png_bomb(), kind="image/png")),
    "html": at_once(lambda r: r.send(b"<!DOCTYPE html><title>Gone</title>")),
    "truncated": at_once(lambda r: r.send(picture()[: len(picture()) // 2])),
    "empty": at_once(lambda r: r.send(b"")),
    "large": large,
    "garbage": garbage,
    "reset": reset,
    "headers": many_headers,
    "continue": continues,
    "two-lengths": at_once(lambda r: r.send(picture(), "Content-Length: 5")),
    "busy": busy,
    "status": status,
    "stall": stall,
    "opt-out": at_once(  # /opt-out.jpg?LINE|LINE, each an X-Robots-Tag
        lambda r: r.send(
            picture(), *[f"X-Robots-Tag: {line}" for line in urllib.parse.unquote_plus(r.query).split("|")]
        )
    ),
    "part": part,
}
"""By the path's first word."""
