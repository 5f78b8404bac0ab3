"""A Ray of a job's own: `srun python -m cluster.rayjobs.own --folder LOGS -- WORDS`, one process on each node of an allocation.

The first node starts the head and, when all have joined, runs the words there; the others hold a worker. `head.json` in a
folder of this start carries address and token between them, for this user alone; it is there as long as the cluster lives.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.gather import gather
from cluster.interface import address_towards, cores
from cluster.launch import free_port
from cluster.place import RANKS_PER_NODE, Node, find_node
from cluster.rayjobs.child import Child
from cluster.rayjobs.reaping import adopt_orphans, end_descendants
from cluster.rayjobs.tokens import new_token, write_secret
from cluster.scratch import cache_environment, job_folder
from configs.errors import NO_REQUEUE, REQUEUE, RunError, UserError

POLL_SECONDS = 0.2
UP_SECONDS, LOST_SECONDS, LEAVE_SECONDS, TERM_SECONDS = 180.0, 30.0, 15.0, 2.0
RAY_SECONDS = 30.0
"""Ray itself gives a node so long to come up; a busy one may need more."""
NAME = "head.json"


class Down(RunError):
    """The cluster did not come up, or went away."""

    exit_code = NO_REQUEUE


class Signals:
    """The last signal that asked this process to end."""

    def __init__(self) -> None:
        self.came: int | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, number: int, _: object) -> None:
        self.came = number

    @property
    def code(self) -> int:
        """SIGUSR1 is the end of the job's time: another start goes on from the units that are committed."""
        return REQUEUE if self.came == signal.SIGUSR1 else 128 + (self.came or 0)


def main(arguments: Sequence[str]) -> int:
    """Be one node of the cluster. Returns the exit code of the command, on the first node."""
    parser = argparse.ArgumentParser(prog="cluster.rayjobs.own")
    parser.add_argument("--folder", required=True, help="of the job's logs, which all nodes see")
    parser.add_argument("--store-mb", type=int, default=256, help="object store of a node, MiB")
    parser.add_argument("words", nargs="+")
    space = parser.parse_args(arguments)
    signals = Signals()
    adopt_orphans()
    scratch = None
    try:
        node = find_node({**os.environ, RANKS_PER_NODE: "1"})
        assert node is not None
        gather(Path(space.folder), node)
        scratch = job_folder(f"{node.job}-{node.node}")
        cluster = _Cluster(node, Path(space.folder) / f"ray-{node.attempt}", scratch, space.store_mb, signals)
        return cluster.lead(space.words) if node.node == 0 else cluster.follow()
    except (UserError, RunError) as error:
        print(f"looksay: {error}", file=sys.stderr, flush=True)
        return int(getattr(error, "exit_code", NO_REQUEUE))
    finally:
        end_descendants()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


class _Cluster:
    """This node's part in it."""

    def __init__(self, node: Node, meeting: Path, scratch: Path, store_mb: int, signals: Signals):
        self.node, self.meeting, self.scratch, self.store_mb, self.signals = node, meeting, scratch, store_mb, signals

    def lead(self, words: Sequence[str]) -> int:
        """Start the head, wait for the others, run the command, and take all of it down."""
        other = self.node.hosts[1] if self.node.nodes > 1 else "127.0.0.1"
        own = address_towards(other) or socket.gethostbyname(self.node.host)
        address, token = f"{own}:{free_port(own)}", new_token()
        shutil.rmtree(self.meeting, ignore_errors=True)
        self.meeting.mkdir(mode=0o700, parents=True)
        try:
            self._start(["--head", "--port", address.rpartition(":")[2], "--include-dashboard=false"], own, token)
            write_secret(self.meeting / NAME, json.dumps({"address": address, "token": token}))
            if self._wait_for_others():
                return self.signals.code
            print(
                f"Ray at {address} on {', '.join(self.node.hosts)}: {self.node.nodes} nodes, with a token", flush=True
            )
            return self._run(words, {"RAY_ADDRESS": address, **token})
        finally:
            (self.meeting / NAME).unlink(missing_ok=True)
            self._wait_for_leave()
            shutil.rmtree(self.meeting, ignore_errors=True)

    def follow(self) -> int:
        """Hold a worker until the head goes away."""
        found = self._await_head()
        if found is None:
            return self.signals.code
        address, token = found
        up = self.meeting / f"up-{self.node.node}"
        try:
            host, _, port = address.rpartition(":")
            self._start(["--address", address], address_towards(host) or host, token)
            up.touch()
            seen = time.monotonic()
            while (self.meeting / NAME).exists() and self.signals.came in (None, signal.SIGUSR1):
                seen = time.monotonic() if _answers(host, int(port)) else seen
                if time.monotonic() - seen > LOST_SECONDS:
                    raise Down(f"the head of this job's Ray on {self.node.hosts[0]} is gone: its log says why")
                time.sleep(1.0)
            return 0 if self.signals.came in (None, signal.SIGUSR1) else self.signals.code
        except RunError as error:
            with contextlib.suppress(OSError):
                (self.meeting / f"failed-{self.node.node}").write_text(str(error))
            raise
        finally:
            up.unlink(missing_ok=True)

    def _start(self, words: Sequence[str], own: str, token: Mapping[str, str]) -> None:
        """`ray start`, which comes back when the node has joined. Ports that are usually the same differ from job to job."""
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--node-ip-address", own, *words]
        command += ["--num-cpus", str(_cores(os.environ)), "--object-store-memory", str(self.store_mb << 20)]
        command += ["--temp-dir", str(self.scratch), "--disable-usage-stats"]
        command += ["--ray-client-server-port", str(free_port(own))]
        command += ["--min-worker-port", "0", "--max-worker-port", "0"]
        command += ["--dashboard-agent-listen-port", str(free_port(own))]
        env = {**os.environ, **token, **cache_environment(os.environ, f"{self.node.job}-{self.node.node}")}
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONSAFEPATH": "1"}
        env.pop("RAY_ADDRESS", None)
        child, output = Child(command, str(self.scratch), env), ""
        end = time.monotonic() + UP_SECONDS
        while True:
            code, text = child.look()
            output += text
            if code == 0:
                return
            if code is not None and "timed out" in output and time.monotonic() < end - RAY_SECONDS:
                end_descendants()
                child = Child(command, str(self.scratch), env)
            elif code is not None or time.monotonic() > end:
                lines = [line.strip() for line in output.splitlines() if line.strip()]
                said = lines[-1] if lines else "it said nothing"
                raise Down(f"Ray does not start on {self.node.host} ({said})")
            if self.signals.came is not None:
                raise _Asked(self.signals.code)
            time.sleep(POLL_SECONDS)

    def _wait_for_others(self) -> bool:
        """Until every worker has joined. True: a signal came first."""
        wanted = {f"up-{k}" for k in range(1, self.node.nodes)}
        end = time.monotonic() + UP_SECONDS
        while True:
            there = {path.name for path in self.meeting.iterdir()}
            if wanted <= there:
                return False
            failed = sorted(name for name in there if name.startswith("failed-"))
            if failed:
                raise Down((self.meeting / failed[0]).read_text())
            if time.monotonic() > end:
                missing = [self.node.hosts[int(name[3:])] for name in sorted(wanted - there)]
                raise Down(f"Ray on {', '.join(missing[:4])} did not join within {UP_SECONDS:.0f} s: see the job's log")
            if self.signals.came is not None:
                return True
            time.sleep(POLL_SECONDS)

    def _wait_for_leave(self) -> None:
        """Workers leave when `head.json` is gone."""
        # SLURM kills 30 s after a SIGTERM, or sooner: what is left is for each node to end by itself.
        end = time.monotonic() + (TERM_SECONDS if self.signals.came else LEAVE_SECONDS)
        while list(self.meeting.glob("up-*")) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def _run(self, words: Sequence[str], env: Mapping[str, str]) -> int:
        """The command, on the first node. A signal ends it: what it has committed stays."""
        process = subprocess.Popen(list(words), env={**os.environ, **env}, stdin=subprocess.DEVNULL)
        while self.signals.came is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL_SECONDS)
                return 128 - code if code < 0 else code
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERM_SECONDS)
        return self.signals.code

    def _await_head(self) -> tuple[str, dict[str, str]] | None:
        """Address and token, once the head is up. None: a signal came first."""
        end = time.monotonic() + UP_SECONDS
        while self.signals.came is None:
            with contextlib.suppress(FileNotFoundError):
                told = json.loads((self.meeting / NAME).read_text())
                return str(told["address"]), dict(told["token"])
            if time.monotonic() > end:
                raise Down(
                    f"the head on {self.node.hosts[0]} did not come up within {UP_SECONDS:.0f} s: see the job's log"
                )
            time.sleep(POLL_SECONDS)
        return None


class _Asked(RunError):
    """A signal came while Ray started."""

    def __init__(self, code: int):
        super().__init__("asked to end before Ray was up")
        self.exit_code = code


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def _cores(environ: Mapping[str, str]) -> int:
    """Processors that SLURM gave this job on this node."""
    given = environ.get("SLURM_CPUS_PER_TASK") or environ.get("SLURM_CPUS_ON_NODE") or ""
    return min(cores(), int(given)) if given.isdigit() and int(given) else cores()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
