"""A hub and its CDN on loopback, in threads: listings as the hub's API gives them, files with ranges, and faults on demand."""

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 4096
"""Bytes from which a file lies on the CDN, with its sha256 listed, as with Git LFS."""
CHUNK = 16 << 10


@dataclass
class Hub:
    """What it holds, how it misbehaves, and who asked for what."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None
    """A repository is given to those alone who have it."""
    gated: bool = False
    served: dict[str, bytes] = field(default_factory=dict)
    """Other bytes than those listed, by file name."""
    cut_after: int | None = None
    """An answer of the CDN ends after so many bytes."""
    failures: int = 0
    """So many answers of the CDN are 503 first."""
    pause: float = 0.0
    """Seconds between chunks of the CDN."""
    ranges: bool = True
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """(server, path, headers by their names in small letters) of each request."""
    commit: str = COMMIT
    url: str = ""
    cdn: str = ""

    def downloads(self, name: str) -> list[str | None]:
        """The Range header of each GET of a file of the CDN."""
        return [headers.get("range") for where, path, headers in self.asked if where == "cdn" and path.endswith(name)]


def _listing(hub: Hub, repo: str) -> dict[str, Any]:
    siblings = []
    for name, data in hub.repositories[repo].items():
        one: dict[str, Any] = {"rfilename": name, "size": len(data)}
        one["blobId"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        if len(data) >= LARGE:
            one["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        siblings.append(one)
    return {
        "id": repo,
        "modelId": repo,
        "sha": hub.commit,
        "siblings": siblings,
        "private": False,
        "tags": [],
        "downloads": 0,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    where: str

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.where, path, {key.lower(): value for key, value in self.headers.items()}))
        try:
            self._cdn(path) if self.where == "cdn" else self._main(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _main(self, path: str) -> None:
        hub = self.hub
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo = api[1] if api else file[1] if file else ""
        if repo not in hub.repositories:
            return self._refuse(404, "RepoNotFound")
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._refuse(403, "GatedRepo") if hub.gated else self._refuse(401, "RepoNotFound")
        if api:
            if api[2] not in ("main", hub.commit):
                return self._refuse(404, "RevisionNotFound")
            return self._send(json.dumps(_listing(hub, repo)).encode(), "application/json")
        assert file is not None
        data = hub.repositories[repo][file[3]]
        if len(data) >= LARGE:
            self.send_response(302)
            self.send_header("Location", f"{hub.cdn}/{repo}/{file[3]}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self._send(hub.served.get(file[3], data), "text/plain")

    def _cdn(self, path: str) -> None:
        hub = self.hub
        if hub.failures > 0:
            hub.failures -= 1
            return self._refuse(503)
        owner, name, file = path.lstrip("/").split("/", 2)
        data = hub.served.get(file, hub.repositories.get(f"{owner}/{name}", {}).get(file))
        if data is None:
            return self._refuse(404)
        return self._send(data, "application/octet-stream", hub.cut_after, hub.pause)

    def _send(self, data: bytes, kind: str, cut_after: int | None = None, pause: float = 0.0) -> None:
        etag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(match[1]) if match and self.hub.ranges else 0
        if self.headers.get("If-Range") not in (None, etag):
            first, match = 0, None
        if match and first >= len(data):
            return self._refuse(416)
        partial = bool(match) and self.hub.ranges
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Type", kind)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if self.command == "HEAD":
            return None
        body = data[first:]
        if cut_after is not None and cut_after < len(body):
            body, self.close_connection = body[:cut_after], True
        for at in range(0, len(body), CHUNK):
            self.wfile.write(body[at : at + CHUNK])
            self.wfile.flush()
            if pause:
                time.sleep(pause)
        return None


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub at `url`, whose large files are redirected to `cdn`: another origin, as on the real one."""
    hub, servers = Hub(), []
    for where in ("hub", "cdn"):
        handler = type("Handler", (_Handler,), {"hub": hub, "where": where})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
