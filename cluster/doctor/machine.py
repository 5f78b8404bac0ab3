"""Processors, GPUs, memory and limits, as the kernel and the driver tell them.

Limits of a scheduler's job or a container count (control groups), not only what the machine has.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster.doctor.findings import Finding, gigabytes
from cluster.interface import cores

SECONDS = 30.0
LEAST_GB, ENOUGH_GB = 3.0, 8.0
"""A rank of a tiny model takes 1.2 GB with all that it imports."""
FILES = 4096
"""Open files: loaders, connections, logs of a node's ranks."""
BUSY = 1.5
"""Processes that want to run, for each processor, from which on they are in each other's way."""
FLAGS = ("amx_bf16", "avx512_bf16")
GPU_FIELDS = "name,memory.total,memory.used,driver_version,ecc.errors.uncorrected.volatile.total"


def check_machine(root: Path = Path("/")) -> Iterator[Finding]:
    """Everything. `root`: of /proc and /sys (a test's own)."""
    yield _processor(root)
    yield _gpus(root)
    yield _memory(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES:
        yield Finding("open files", "ok", f"up to {soft:,} a process", figures={"limit": soft})
    else:
        more = f"`ulimit -n {FILES}` before the command, in a file that scheduler.setup_files names"
        less = "" if hard == resource.RLIM_INFINITY or hard >= FILES else f" (an administrator must raise {hard:,})"
        yield Finding("open files", "warn", f"up to {soft:,} a process", more + less, {"limit": soft})


def _processor(root: Path) -> Finding:
    text = _read(root / "proc/cpuinfo")
    name = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    fast = [flag for flag in FLAGS if flag in flags]
    mine, quota = cores(), cpu_quota(root)
    figures = {"cores": mine, "quota": quota, "model": name, "bf16": fast}
    said = f"{mine} cores of {os.cpu_count()}, {name or 'of an unknown kind'}, bf16: {', '.join(fast) or 'no'}"
    if quota is not None and quota < mine:
        fix = f"give the container or job {mine} processors, or set parallel.ranks to {max(1, int(quota))}"
        return Finding("processor", "warn", f"{said}; limited to the time of {quota:g}", fix, figures)
    load = os.getloadavg()[0]
    figures["load"] = load
    if load > BUSY * (os.cpu_count() or 1):
        fix = "see who (`top`), or wait: figures of several ranks, collectives above all, are lower than on a quiet machine"
        return Finding("processor", "warn", f"{said}; busy (load {load:.1f})", fix, figures)
    return Finding("processor", "ok", said, figures=figures)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that a control group gives this process; None: no limit."""
    words = _read(_group(root, "cpu.max") / "cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        return int(words[0]) / int(words[1])
    quota, period = (_number(_group(root, "cpu.cfs") / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota is not None and period and quota > 0 else None


def _gpus(root: Path) -> Finding:
    there = sorted((root / "dev").glob("nvidia[0-9]*"))
    command = shutil.which("nvidia-smi")
    if command is None:
        if there:
            fix = "install the driver's tools, or start the container with --nv (Apptainer) or --gpus all (Docker)"
            return Finding("devices", "warn", f"{len(there)} GPUs, but no nvidia-smi", fix)
        return Finding("devices", "ok", "no GPU: ranks share the processors (gloo)", figures={"gpus": 0})
    try:
        done = subprocess.run(
            [command, f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return Finding(
            "devices", "fail", "nvidia-smi does not answer", "look for XID errors in `dmesg`; drain the node"
        )
    return gpu_finding(done.returncode, done.stdout)


def gpu_finding(code: int, told: str) -> Finding:
    """What nvidia-smi said of the GPUs."""
    rows = [[word.strip() for word in line.split(",")] for line in told.splitlines() if line.count(",") == 4]
    if code or not rows:
        fix = "load the driver (`modprobe nvidia`), or look for XID errors in `dmesg`"
        return Finding("devices", "fail", f"nvidia-smi finds no GPU ({told.strip()[:100] or code})", fix)
    names = sorted({row[0] for row in rows})
    said = f"{len(rows)} x {', '.join(names)}, {rows[0][1]} MiB each, driver {rows[0][3]}"
    figures = {"gpus": len(rows), "names": names, "memory_mib": [row[1] for row in rows]}
    bad = [str(number) for number, row in enumerate(rows) if row[4].isdigit() and int(row[4]) > 0]
    busy = [
        str(n) for n, row in enumerate(rows) if row[2].isdigit() and row[1].isdigit() and int(row[2]) * 10 > int(row[1])
    ]
    if bad:
        fix = f"reset GPU {', '.join(bad)} (`nvidia-smi --gpu-reset`) or drain the node"
        return Finding("devices", "fail", f"{said}; uncorrected memory errors", fix, figures)
    if len(names) > 1:
        return Finding("devices", "warn", said, "unlike GPUs wait for the slowest: choose nodes of one kind", figures)
    if busy:
        fix = f"somebody uses GPU {', '.join(busy)}: `nvidia-smi` names the processes"
        return Finding("devices", "warn", f"{said}; memory is in use", fix, figures)
    return Finding("devices", "ok", said, figures=figures)


def _memory(root: Path) -> Finding:
    lines = dict(line.split(":", 1) for line in _read(root / "proc/meminfo").splitlines() if ":" in line)
    sizes = {name: int(value.split()[0]) * 1024 for name, value in lines.items() if value.split()[:1]}
    total, free = sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)
    if not total:
        return Finding("memory", "warn", "the system does not say", "mount /proc")
    said, figures = f"{gigabytes(free)} free of {gigabytes(total)}", {"total": total, "free": free}
    limit, used = memory_limit(root)
    if limit is not None and limit < total:
        free = min(free, max(0, limit - used))
        said += f"; limited to {gigabytes(limit)} by a control group"
        figures |= {"limit": limit, "free": free}
    if free < LEAST_GB * 1e9:
        fix = f"free some, or ask for more (scheduler.memory_per_node): a rank takes at least {LEAST_GB:g} GB"
        return Finding("memory", "fail", said, fix, figures)
    if free < ENOUGH_GB * 1e9:
        fix = "enough for a tiny model on one rank: `looksay estimate` says what yours needs"
        return Finding("memory", "warn", said, fix, figures)
    return Finding("memory", "ok", said, figures=figures)


def memory_limit(root: Path = Path("/")) -> tuple[int | None, int]:
    """(bytes that a control group allows, bytes in use in it); None: no limit below what any machine has."""
    group = _group(root, "memory.max")
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        most = _number(group / limit)
        if most is not None and most < 1 << 60:
            return int(most), int(_number(group / used) or 0)
    return None, 0


def _group(root: Path, file: str) -> Path:
    """This process's control group: of cgroup v1's controller that a file belongs to, or of v2."""
    unified, kind = "", file.partition(".")[0]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if kind in controllers.split(","):
            for place in (root / "sys/fs/cgroup" / kind / path.lstrip("/"), root / "sys/fs/cgroup" / kind):
                if place.is_dir():
                    return place
        if not controllers:
            unified = path
    whole = root / "sys/fs/cgroup"
    place = whole / unified.lstrip("/")
    return place if place.is_dir() else whole


def _number(path: Path) -> float | None:
    text = _read(path).strip()
    return float(text) if text.lstrip("-").isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
