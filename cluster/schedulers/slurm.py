"""SLURM's commands: submit, ask, cancel. Each has a deadline, and what it complains of becomes one sentence."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from cluster.preempt import seconds_of
from cluster.schedulers.job import Job, State, Submitted
from cluster.schedulers.slurm_script import log_of, render
from configs.errors import RunError, UserError
from configs.listing import nearest
from configs.scheduler import SchedulerConfig

SECONDS = 60.0
"""Deadline of one command: a controller that is down is asked for a minute."""


class Slurm:
    """The SLURM that this machine is a login node of."""

    def __init__(self, config: SchedulerConfig, site: str):
        self.config, self.site = config, site

    @property
    def where(self) -> dict[str, str]:
        return {}

    def render(self, job: Job) -> str:
        return render(job, self.config)

    def check(self, job: Job) -> None:
        """Partition, nodes and time limit are there.

        Raises:
            UserError: they are not, or there is no SLURM on this machine.
        """
        if shutil.which("sbatch") is None:
            raise UserError(
                f"no SLURM on this machine (sbatch is not on PATH): submit on a login node of site {self.site}, or see the script "
                "with --dry-run"
            )
        known = _partitions()
        wanted = self.config.partition
        if wanted is None:
            wanted = next((name for name, (_, default) in known.items() if default), None)
            if wanted is None:
                raise UserError(f"site {self.site} names no partition and this SLURM has no default: {_choose(known)}")
        elif wanted not in known:
            raise UserError(f"this SLURM has no partition {wanted!r}: {nearest(wanted, known)} with {_PARTITION}")
        most = known[wanted][0]
        if job.nodes > most:
            raise UserError(
                f"{job.nodes} nodes are more than partition {wanted} has: it has {most}; give fewer with --nodes"
            )

    def submit(self, job: Job, script: str) -> Submitted:
        """Hand a script file to sbatch.

        Raises:
            UserError: SLURM refuses it.
        """
        done = _run(["sbatch", "--parsable", script])
        if done.returncode:
            raise UserError(self._refusal(done.stderr))
        number = done.stdout.strip().split(";")[0]
        log = log_of(job, number)
        return Submitted(number, log, f"tail -F {log if job.array else shlex.quote(log)}")

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        """What SLURM knows of jobs; it forgets those that ended some minutes ago (MinJobAge)."""
        if shutil.which("scontrol") is None:
            return {}
        found = {}
        for number in ids:
            done = _run(["scontrol", "show", "job", "--oneliner", number])
            if done.returncode == 0 and done.stdout.strip():
                found[number] = state_of(number, done.stdout.splitlines())
            elif "Invalid job id" in done.stderr or "No jobs" in done.stdout:
                found[number] = State(number, None)
            else:
                raise RunError(f"SLURM does not answer ({_last(done.stderr)}): try again")
        return found

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs.

        Raises:
            RunError: SLURM refuses.
        """
        if shutil.which("scancel") is None:
            raise UserError("no SLURM on this machine (scancel is not on PATH): cancel on a login node of the cluster")
        done = _run(["scancel", *ids])
        if done.returncode:
            raise RunError(f"SLURM did not cancel {', '.join(ids)}: {_last(done.stderr)}")

    def _refusal(self, said: str) -> str:
        """sbatch's complaint as a sentence with its remedy."""
        config, low = self.config, said.lower()
        if "invalid account" in low:
            return (
                f"SLURM does not take account {config.account!r} on partition {config.partition or 'by default'}: `sacctmgr show "
                "associations user=$USER` lists yours; correct scheduler.account of the site file, or give --account"
            )
        if "invalid partition" in low:
            return f"this SLURM has no partition {config.partition!r}: `sinfo` lists them; correct {_PARTITION}"
        if "invalid qos" in low:
            return f"SLURM does not take qos {config.qos!r}: correct scheduler.qos of the site file"
        if "time limit" in low:
            return f"SLURM does not take the time limit {config.time}: `sinfo` lists limits; give --time"
        if "node configuration is not available" in low or "more processors" in low or "node count" in low:
            return (
                "this SLURM has no such nodes: correct nodes, cpus_per_node, gpus_per_node, memory_per_node or constraint of the "
                f"site file ({_last(said)})"
            )
        if "unable to contact" in low or "connection refused" in low:
            return f"SLURM's controller does not answer: `scontrol ping` says more ({_last(said)})"
        return f"SLURM does not take the job: {_last(said)}; see the script with --dry-run"


_PARTITION = "scheduler.partition of the site file, or --partition"


def state_of(number: str, lines: Sequence[str]) -> State:
    """A job's state from `scontrol show job --oneliner`; of an array, the first task that is not over."""
    records = [dict(re.findall(r"(?:^| )([A-Za-z/:]+)=(\S*)", line)) for line in lines if "JobState=" in line]
    states = [
        State(
            number,
            record["JobState"],
            "" if record.get("Reason") in (None, "None") else record["Reason"],
            int(record.get("Restarts", 0) or 0),
            "" if record.get("NodeList") in (None, "(null)") else record["NodeList"],
            _span(record.get("RunTime")),
            _span(record.get("TimeLimit")),
        )
        for record in records
    ]
    return next((state for state in states if state.waits_or_runs), states[0]) if states else State(number, None)


def _span(text: str | None) -> float | None:
    try:
        return seconds_of(text) if text else None
    except UserError:  # UNLIMITED, Partition_Limit
        return None


def _partitions() -> dict[str, tuple[int, bool]]:
    """Partition -> its number of nodes, and whether it is the default."""
    done = _run(["sinfo", "--noheader", "--format=%R|%D|%P"])
    if done.returncode:
        raise RunError(f"SLURM does not answer ({_last(done.stderr)}): `scontrol ping` says more; try again")
    found: dict[str, tuple[int, bool]] = {}
    for line in done.stdout.splitlines():
        name, count, starred = line.strip().split("|")
        before = found.get(name, (0, False))
        found[name] = (before[0] + int(count), before[1] or starred.endswith("*"))
    return found


def _choose(known: dict[str, tuple[int, bool]]) -> str:
    return f"use one of {', '.join(sorted(known))} with {_PARTITION}"


def _run(words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise RunError(
            f"{words[0]} did not answer within {SECONDS:.0f} s: `scontrol ping` says more; try again"
        ) from None


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
