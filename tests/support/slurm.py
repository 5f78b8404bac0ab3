"""A real SLURM on one machine: slurmctld, munge and several nodes, each in its own network, process and mount namespace.

Needs root and Debian's slurmctld, slurmd, slurm-client, munge and iproute2. Nodes share the disk but for the folder `private`.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

BRIDGE, NETWORK = "lsslurm0", "10.99.7"
TOOLS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge", "ip": "iproute2"}
CONFIG = """ClusterName=looksay
SlurmctldHost=ctl({network}.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmctldPort=6827
SlurmdPort=6828
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=6
SlurmctldTimeout=10
MessageTimeout=5
TCPTimeout=2
InactiveLimit=0
MinJobAge=300
KillWait=5
BatchStartTimeout=10
JobRequeue=1
EnforcePartLimits=ALL
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=guarded Nodes=ALL AllowAccounts=chosen MaxTime=INFINITE State=UP
"""
"""cred_expire: a requeued job waits so long (120 s by default)."""


def missing() -> str | None:
    """Why there can be no such cluster here; None where there can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    lacking = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if lacking:
        return f"not installed: apt-get install --no-install-recommends {' '.join(lacking)}"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, timeout=10).returncode:
        return "this machine allows no network namespaces"
    return None


def _run(*words: str, check: bool = True) -> str:
    return subprocess.run(words, check=check, capture_output=True, text=True, timeout=60).stdout


class SlurmNodes:
    """`count` nodes n1, n2, ... A context manager; inside, SLURM_CONF leads this machine's commands to the cluster."""

    def __init__(self, count: int, folder: Path):
        self.names = [f"n{k + 1}" for k in range(count)]
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "SlurmNodes":
        self._clear()
        for name in ("state", "private", *(f"spool.{node}" for node in self.names)):
            (self.folder / name).mkdir()
        described = [f"NodeName={name} NodeAddr={self.address(name)} CPUs=2 RealMemory=4000" for name in self.names]
        config = CONFIG.format(network=NETWORK, folder=self.folder, nodes="\n".join(described))
        (self.folder / "slurm.conf").write_text(config)
        hosts = ["127.0.0.1 localhost", f"{NETWORK}.254 ctl", *(f"{self.address(name)} {name}" for name in self.names)]
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        self._munge("--key-file", "munge.key", "--socket", "munge.sock", "--pid-file", "munged.pid")
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self._wire()
        controller = f"hostname ctl; exec slurmctld -c -f {self.folder}/slurm.conf"
        _run("unshare", "--uts", "--mount", "bash", "-c", f"mount --bind {self.folder}/hosts /etc/hosts; {controller}")
        for name in self.names:
            self.boot(name)
        self.wait(
            lambda: (
                _run("sinfo", "-h", "-N", "-p", "low", "-o", "%T", check=False).split() == ["idle"] * len(self.names)
            ),
            30,
            "idle nodes",
        )
        return self

    def _munge(self, *words: str) -> None:
        places = [word if word.startswith("--") else f"{self.folder}/{word}" for word in words]
        more = [f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed", "--force"]
        _run("munged", *places, *more)

    def _wire(self) -> None:
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "addr", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for name in self.names:
            space, link = f"lss{name}", f"vlss{name}"
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", link, "master", BRIDGE, "up")
            _run("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "up")
            _run("ip", "-n", space, "link", "set", "lo", "up")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self.processes):
            self.crash(name)
        for name in ("slurmctld.pid", "munged.pid"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(int((self.folder / name).read_text()), signal.SIGKILL)
        self._clear()
        os.environ.pop("SLURM_CONF", None)

    def _clear(self) -> None:
        for name in self.names:
            _run("ip", "netns", "del", f"lss{name}", check=False)
        _run("ip", "link", "del", BRIDGE, check=False)

    def address(self, name: str) -> str:
        return f"{NETWORK}.{self.names.index(name) + 1}"

    def boot(self, name: str) -> None:
        """Start slurmd on a node."""
        inside = f"hostname {name}; mount --bind {self.folder}/hosts /etc/hosts; mount -t tmpfs tmpfs {self.folder}/private; "
        space = ["nsenter", f"--net=/run/netns/lss{name}", "unshare", "--uts", "--pid", "--mount-proc", "--mount"]
        with open(self.folder / f"console.{name}", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    *space,
                    "--fork",
                    "--kill-child",
                    "bash",
                    "-c",
                    f"{inside} exec slurmd -D -f {self.folder}/slurm.conf -N {name}",
                ],
                stdout=log,
                stderr=log,
            )

    def inside(self, name: str, *words: str) -> str:
        """Run words on a node, whose first process is the target of `nsenter`; returns what they print."""
        unshare = self.processes[name].pid
        first = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0]
        return _run("nsenter", "--target", first, "--net", "--mount", "--pid", "--uts", *words)

    def crash(self, name: str) -> None:
        """Everything on a node dies at once, its job steps too."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait(30)

    def throttle(self, rate: str | None) -> None:
        """The cables carry `rate` (such as 1mbit); none: all that they can. Steps take longer then, at no cost."""
        for name in self.names:
            command = ["ip", "netns", "exec", f"lss{name}", "tc", "qdisc"]
            _run(*command, "del", "dev", "eth0", "root", check=False)
            if rate is not None:
                _run(*command, "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "8kb", "latency", "400ms")

    def job(self, number: str) -> dict[str, str]:
        """What SLURM says of a job."""
        line = _run("scontrol", "show", "job", "--oneliner", number)
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def expire(self, number: str, seconds: int) -> None:
        """The job's time limit is reached in so many seconds: limits are whole minutes, end times are not.

        SLURM looks every 30 seconds whether a limit or its signal is due.
        """
        end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))
        _run("scontrol", "update", f"JobId={number}", f"EndTime={end}")

    @staticmethod
    def wait(there: Callable[[], Any], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, f"waited {seconds} s for {what}"
            time.sleep(0.1)


def metrics(run: Path) -> list[dict[str, Any]]:
    """Steps of a run so far."""
    try:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    except FileNotFoundError:
        return []
