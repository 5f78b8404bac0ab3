"""SLURM and Ray: whether they answer from here. What a site does not use, and is not there, is no fault."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from cluster.doctor.findings import Finding
from configs.scheduler import SchedulerConfig

SECONDS = 20.0
RAY_PORT = 6379


def check_reach(scheduler: SchedulerConfig | None, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Both of them; `scheduler` is the site's, which must answer."""
    kind = None if scheduler is None else scheduler.type
    yield _slurm(kind == "slurm", None if scheduler is None else scheduler.partition)
    yield _ray(kind == "ray", environ)


def _slurm(wanted: bool, partition: str | None) -> Finding:
    if shutil.which("sinfo") is None:
        if not wanted:
            return Finding("SLURM", "ok", "not on this machine")
        return Finding("SLURM", "fail", "sinfo is not on PATH", "go to a login node, or load SLURM's module")
    try:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%R|%D|%T|%a"], capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        said = "" if done is None else done.stderr.strip().splitlines()[-1:][0] if done.stderr.strip() else ""
        fix = "`scontrol ping` says more; check munge (`munge -n | unmunge`) and slurmctld"
        return Finding("SLURM", "fail" if wanted else "warn", f"does not answer{': ' if said else ''}{said}", fix)
    return slurm_finding(done.stdout, partition)


def slurm_finding(told: str, partition: str | None) -> Finding:
    """What `sinfo` said, by partition."""
    nodes: dict[str, dict[str, int]] = {}
    for line in told.splitlines():
        name, count, state, _ = line.strip().split("|")
        states = nodes.setdefault(name, {})
        word = state.rstrip("*~#!%$@^-+")
        states[word] = states.get(word, 0) + int(count)
    said = "; ".join(
        f"{name}: {', '.join(f'{count} {state}' for state, count in sorted(states.items()))}"
        for name, states in sorted(nodes.items())
    )
    figures = {"partitions": nodes}
    if partition is not None and partition not in nodes:
        fix = f"correct scheduler.partition of the site: {', '.join(sorted(nodes)) or 'none'} is there"
        return Finding("SLURM", "fail", f"no partition {partition}; {said}", fix, figures)
    chosen = nodes if partition is None else {partition: nodes[partition]}
    usable = sum(
        n for states in chosen.values() for state, n in states.items() if state not in ("down", "drained", "fail")
    )
    if not usable:
        fix = "`sinfo -R` says why; an administrator resumes nodes with `scontrol update nodename=N state=resume`"
        return Finding("SLURM", "fail", f"no node can run a job: {said}", fix, figures)
    return Finding("SLURM", "ok", said, figures=figures)


def _ray(wanted: bool, environ: Mapping[str, str]) -> Finding:
    address = environ.get("RAY_ADDRESS", "")
    if not address and not wanted:
        return Finding("Ray", "ok", "no cluster is named (RAY_ADDRESS): data builds start their own on this machine")
    host, port = address_of(address)
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        fix = "start it (`ray start --head`), or correct or unset RAY_ADDRESS"
        said = f"{host}:{port} does not answer ({error.strerror or error})"
        return Finding("Ray", "fail", said, fix)
    if environ.get("RAY_AUTH_MODE") != "token":
        fix = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN there and here: who reaches the port runs code"
        return Finding("Ray", "warn", f"{host}:{port} answers; no token is set here", fix)
    return Finding("Ray", "ok", f"{host}:{port} answers, token authentication is on here")


def address_of(address: str) -> tuple[str, int]:
    """(host, port) of RAY_ADDRESS: HOST:PORT, ray://HOST:PORT, http://HOST:PORT, auto or nothing."""
    if address in ("", "auto", "local"):
        return "127.0.0.1", RAY_PORT
    parts = urlsplit(address if "://" in address else f"//{address}")
    default = {"ray": 10001, "http": 8265, "https": 8265}.get(parts.scheme, RAY_PORT)
    return parts.hostname or "127.0.0.1", parts.port or default
