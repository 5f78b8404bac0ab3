"""nginx on the loopback: a folder served over HTTP and HTTPS, pinned to one core, with a certificate of its own.

    with LoopbackServer({"mixed": folder}, core=1) as server:
        server.http, server.https      "http://127.0.0.1:PORT", no slash at the end
        server.authority               PEM file of the authority that signed the certificate
        server.bundle                  PEM file of the system's roots and this authority, for SSL_CERT_FILE

nginx as Debian packs it (1.22), its defaults for keep-alive (1000 requests on a connection) and TLS (1.3 with these
clients), no access log, ECDSA P-256. On the PATH, or from the Debian package, which is unpacked and not installed.
"""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import certifi
from debian_files import unpacked

CONFIG = """
worker_processes 1; daemon off; pid {work}/nginx.pid; error_log {work}/error.log warn; {user}
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; types {{ image/jpeg jpg; }}
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
  uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
  server {{
    listen 127.0.0.1:{http} backlog=1024; listen 127.0.0.1:{https} ssl backlog=1024;
    ssl_certificate {work}/server.pem; ssl_certificate_key {work}/server.key;
    {locations}
  }}
}}
"""


class LoopbackServer:
    """Serves each `folders` item at /NAME/. Starts on entering, ends on leaving the `with`."""

    def __init__(self, folders: dict[str, Path], core: int | None) -> None:
        self.folders, self.core = folders, core
        self.work = Path(tempfile.mkdtemp(prefix="looksay-loopback-"))
        self.authority, self.bundle = self.work / "authority.pem", self.work / "bundle.pem"
        self.http, self.https, self.roots = "", "", 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._certify()
        usual = ssl.get_default_verify_paths().cafile or certifi.where()  # what either client loads by itself
        roots = Path(usual).read_text(encoding="utf-8") + self.authority.read_text(encoding="ascii")
        self.bundle.write_text(roots, encoding="utf-8")
        self.roots = roots.count("BEGIN CERTIFICATE")
        http, https = _free_ports(2)
        locations = " ".join(f"location /{name}/ {{ alias {path}/; }}" for name, path in self.folders.items())
        config = CONFIG.format(
            work=self.work,
            http=http,
            https=https,
            locations=locations,
            user="user root;" if os.geteuid() == 0 else "",  # else its worker could not read the folders
        )
        (self.work / "nginx.conf").write_text(config, encoding="utf-8")
        binary = shutil.which("nginx") or str(unpacked("nginx") / "usr/sbin/nginx")
        pin = [] if self.core is None else ["taskset", "-c", str(self.core)]
        self._process = subprocess.Popen(
            [
                *pin,
                binary,
                "-p",
                str(self.work),
                "-c",
                str(self.work / "nginx.conf"),
                "-e",
                str(self.work / "start.log"),
            ]
        )
        self.http, self.https = f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}"
        self._wait(http)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
        shutil.rmtree(self.work, ignore_errors=True)

    def _wait(self, port: int) -> None:
        assert self._process is not None
        for _ in range(100):
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        logs = "".join(path.read_text() for path in self.work.glob("*.log"))
        self.__exit__(None, None, None)
        sys.exit(f"nginx did not start: {logs.strip() or 'no message'}")

    def _certify(self) -> None:
        """An authority, and a certificate for 127.0.0.1 and localhost signed by it; both for a week."""
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        use = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        sign = ["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-copy_extensions", "copy"]
        for command in (
            ["req", "-x509", *key, "-keyout", "authority.key", "-out", "authority.pem", "-days", "7", *use]
            + ["-subj", "/CN=looksay benchmark authority"],
            ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1", *names],
            ["x509", "-req", "-in", "server.csr", "-out", "server.pem", "-days", "7", *sign],
        ):
            done = subprocess.run(["openssl", *command], cwd=self.work, capture_output=True, text=True, timeout=60)
            if done.returncode:
                sys.exit(f"openssl {command[0]} failed: {done.stderr.strip()}")


def _free_ports(count: int) -> list[int]:
    holders = [socket.socket() for _ in range(count)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports
