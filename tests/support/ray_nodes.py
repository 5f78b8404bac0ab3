"""A Ray cluster of several nodes on one machine: each in its own network, process, mount and host-name namespace.

Needs root and `ip` (Debian: iproute2). Nodes share the disk but for /tmp, which Ray keeps its sockets in.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

BRIDGE, NETWORK = "lsray0", "10.98.7"
PORT, JOBS = 6379, 8265


def missing(jobs: bool = False) -> str | None:
    """Why there can be no such cluster here; None where there can. `jobs`: one that takes jobs over HTTP."""
    if jobs and any(find_spec(name) is None for name in ("aiohttp_cors", "opencensus", "prometheus_client")):
        return "the head's Jobs API needs ray[default]: make install-dev"
    if os.geteuid() != 0:
        return "namespaces need root"
    for tool in ("ip", "nsenter", "unshare"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian: iproute2, util-linux)"
    if any(path.startswith("/tmp/") for path in (sys.prefix, str(Path(__file__).resolve()))):
        return "each node has a /tmp of its own: the checkout and its environment must lie elsewhere"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, timeout=10).returncode:
        return "this machine allows no network namespaces"
    return None


def _run(*words: str, check: bool = True) -> None:
    subprocess.run(words, check=check, capture_output=True, timeout=30)


def _again(words: list[str]) -> str:
    """Ray gives up after 30 s, which a busy machine may need to start one: again then, until somebody ends it."""
    line = " ".join(words)
    return f"while true; do {line}; done"


class RayNodes:
    """`count` nodes of one processor each; node 0 is the head. A context manager.

    `token`: environment that lets a driver in; nobody else is. With `jobs` the head takes jobs over HTTP, at `api`.
    """

    def __init__(self, count: int, folder: Path, jobs: bool = False):
        self.count, self.folder, self.jobs = count, folder, jobs
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "RayNodes":
        self._clear()
        hosts = ["127.0.0.1 localhost", *(f"{self.address(k)} lsr{k}" for k in range(self.count))]
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "addr", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for k in range(self.count):
            name, link = f"lsr{k}", f"vlsr{k}"
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "link", "set", link, "master", BRIDGE, "up")
            _run("ip", "-n", name, "addr", "add", f"{self.address(k)}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
        for k in range(self.count):
            self.boot(k)
            if k == 0:
                self._wait_for_head()
                if self.jobs:
                    self._wait_for_jobs()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for k in list(self.processes):
            self.crash(k)
        self._clear()

    def _clear(self) -> None:
        for k in range(self.count):
            # The pair goes at once; with its namespace it would go a while later, and be in the way of the next one.
            _run("ip", "link", "del", f"vlsr{k}", check=False)
            _run("ip", "netns", "del", f"lsr{k}", check=False)
        _run("ip", "link", "del", BRIDGE, check=False)

    @staticmethod
    def address(k: int) -> str:
        return f"{NETWORK}.{k + 1}"

    @property
    def head(self) -> str:
        return f"{self.address(0)}:{PORT}"

    @property
    def api(self) -> str:
        return f"http://{self.address(0)}:{JOBS}"

    def boot(self, k: int) -> None:
        """Start Ray on node `k`."""
        ray = str(Path(sys.executable).with_name("ray"))
        words = [ray, "start", "--node-ip-address", self.address(k), "--num-cpus", "1", "--block"]
        words += ["--object-store-memory", "100000000", "--disable-usage-stats"]
        if k == 0:
            words += ["--head", "--port", str(PORT), f"--include-dashboard={str(self.jobs).lower()}"]
            words += ["--dashboard-host", self.address(0), "--dashboard-port", str(JOBS)] if self.jobs else []
        else:
            words += ["--address", self.head]
        inside = (
            f"hostname lsr{k}; mount --bind {self.folder}/hosts /etc/hosts; mount -t tmpfs -o size=512m tmpfs /tmp; "
        )
        space = ["nsenter", f"--net=/run/netns/lsr{k}", "unshare", "--uts", "--pid", "--mount-proc", "--mount"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where `python3` is ours
        log = open(self.folder / f"node-{k}.log", "wb")  # noqa: SIM115 - the process keeps it
        with log:
            self.processes[k] = subprocess.Popen(
                [*space, "--fork", "--kill-child", "bash", "-c", inside + _again(words)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0", **self.token},
            )

    def _wait_for_head(self) -> None:
        inside = ["nsenter", "--net=/run/netns/lsr0", "bash", "-c", f"exec 3<>/dev/tcp/{self.address(0)}/{PORT}"]
        for _ in range(900):
            if subprocess.run(inside, capture_output=True, timeout=10).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError(f"the head of the Ray cluster did not start: {(self.folder / 'node-0.log').read_text()}")

    def _wait_for_jobs(self) -> None:
        """The API answers. Until then its dozen processes would keep other nodes from joining in time."""
        for _ in range(900):
            request = urllib.request.Request(self.api + "/api/version")
            request.add_header("Authorization", f"Bearer {self.token['RAY_AUTH_TOKEN']}")
            try:
                urllib.request.urlopen(request, timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"the Jobs API did not start: {(self.folder / 'node-0.log').read_text()}")

    def command(self, k: int, words: list[str]) -> list[str]:
        """`words` as a command that runs on node `k`, whose first process is the target of `nsenter`."""
        return ["nsenter", "--target", str(self._first(k)), "--net", "--mount", "--pid", "--uts", *words]

    def _first(self, k: int) -> int:
        """The node's process number 1, seen from outside."""
        unshare = self.processes[k].pid
        return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])

    def crash(self, k: int) -> None:
        """Everything on node `k` dies at once."""
        process = self.processes.pop(k)
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait(30)

    def cut(self, k: int) -> None:
        """The cable of node `k` is pulled: it lives on, and nothing reaches it."""
        _run("ip", "link", "set", f"vlsr{k}", "down")

    def heal(self, k: int) -> None:
        _run("ip", "link", "set", f"vlsr{k}", "up")


def command_lines() -> list[bytes]:
    """What everybody on this machine can see of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())
    return lines
