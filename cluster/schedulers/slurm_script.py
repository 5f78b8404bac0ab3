"""The script of a SLURM job. Pure: a job and what the site says in, text out."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.place import RANKS_PER_NODE
from cluster.schedulers.job import Job
from cluster.schedulers.slurm_words import as_comment, directive, shell_line
from configs.errors import REQUEUE
from configs.scheduler import SchedulerConfig

LOG, ARRAY_LOG = "slurm-%j.out", "slurm-%A_%a.out"

STAGING = """
# The environment goes to each node's own disk: thousands of small files are slow to import from a shared one.
staged={folder}/looksay-"$(id -u)-$SLURM_JOB_ID"
on_each_node() {{
    srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpu-bind=none bash -c "$@"
}}
on_each_node 'mkdir -p -m 700 "$2" && tar -xf "$1" -C "$2" && "$2/bin/python" -c ""' stage {archive} "$staged" || {{
    echo "looksay: the environment could not be unpacked on a node: see scheduler.stage_env of the site file"
    exit 1
}}
"""
STAGED_PYTHON = '"$staged/bin/python"'
STAGED = f"{STAGED_PYTHON} -P -m pretrain.cli.main"
UNSTAGE = """
on_each_node 'rm -rf "$1"' unstage "$staged"
"""
ENDING = """
# Shortly before the time limit SLURM sends USR1 to this shell, which hands it on: ranks write a checkpoint and end with {requeue}.
asked=0 signalled=0
trap 'asked=1 signalled=1; kill -USR1 "$step" 2>/dev/null' USR1
trap 'signalled=1; kill -TERM "$step" 2>/dev/null' TERM
while :; do
    signalled=0
    wait "$step"
    code=$?
    [ "$signalled" = 1 ] || break # a signal interrupts wait
done
{unstage}
# {requeue}: another start goes on. Above 128: a signal ended it, which is fine if it was ours. All else is a failure and stays one.
again=0
[ "$code" -eq {requeue} ] && again=1
[ "$code" -gt 128 ] && [ "$asked" = 1 ] && again=1
if [ "$again" = 1 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -ge {most} ]; then
    echo "looksay: started again {most} times already: not queued again"
elif [ "$again" = 1 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "looksay: job $SLURM_JOB_ID queues again, after ${{SLURM_RESTART_COUNT:-0}} starts before this one"
    scontrol requeue "$SLURM_JOB_ID" && sleep 600 # SLURM ends this shell
fi
exit "$code"
"""


def render(job: Job, site: SchedulerConfig) -> str:
    """The text of the script that sbatch takes.

    Raises:
        UserError: a value cannot be a word of a directive.
    """
    made = as_comment(f"Made by: {job.shown}")
    lines = ["#!/bin/bash", *made, *(directive(name, value) for name, value in _directives(job, site)), ""]
    for module in site.modules:
        lines.append(f"module load {shlex.quote(module)} || exit 1")
    for path in site.setup_files:
        lines.append(f"source {shlex.quote(_as_path(path))} || exit 1")
    for name, value in site.env.items():
        lines.append(f"export {name}={shlex.quote(value)}")
    if job.ranks_per_node is not None:
        lines.append(f"export {RANKS_PER_NODE}={job.ranks_per_node}")
    stage = site.stage_env
    if stage is not None:
        quoted = {"folder": shlex.quote(stage.folder), "archive": shlex.quote(_as_path(stage.archive))}
        lines += STAGING.format(nodes=job.nodes, **quoted).splitlines()
    if job.own_ray_mb is not None:
        lines += ["", "# The nodes form a Ray of their own; the command runs on the first, and Ray ends with it."]
    else:
        lines += ["", "# One launcher a node; it starts the node's ranks, and a log of each lies beside this job's."]
    lines += [
        f"srun {' '.join(_srun(job, site))} \\",
        f"    {_started(job, site)} {shell_line(job.words)} &",
        "step=$!",
    ]
    unstage = UNSTAGE if stage is not None else ""
    return "\n".join(lines) + "\n" + ENDING.format(requeue=REQUEUE, most=site.max_requeues, unstage=unstage)


def log_of(job: Job, number: str) -> str:
    """Where SLURM puts the output of a job with this number; * stands for the tasks of an array."""
    name = ARRAY_LOG.replace("%A", number).replace("%a", "*") if job.array else LOG.replace("%j", number)
    return str(Path(job.folder) / name)


def _directives(job: Job, site: SchedulerConfig) -> Iterator[tuple[str, str | None]]:
    yield "job-name", job.name
    yield "chdir", job.cwd
    # A % in a folder's name is not one of sbatch's placeholders.
    yield "output", str(Path(job.folder.replace("%", "%%")) / (ARRAY_LOG if job.array else LOG))
    yield "open-mode", "append"
    for name in ("partition", "account", "qos", "reservation", "constraint"):
        value = getattr(site, name)
        if value is not None:
            yield name, value
    yield "nodes", str(job.nodes)
    yield "ntasks-per-node", "1"
    if site.cpus_per_node is not None:
        yield "cpus-per-task", str(site.cpus_per_node)
    if site.gpus_per_node:
        kind = f"{site.gpu_type}:" if site.gpu_type else ""
        yield "gpus-per-node", f"{kind}{site.gpus_per_node}"
    if site.memory_per_node is not None:
        yield "mem", site.memory_per_node
    if site.exclusive:
        yield "exclusive", None
    if site.time is not None:
        yield "time", site.time
    if job.array is not None:
        yield "array", job.array
    if job.after:
        yield "dependency", "afterok:" + ":".join(job.after)
        yield "kill-on-invalid-dep", "yes"
    yield "signal", f"B:USR1@{site.signal_seconds}"
    yield "requeue", None
    yield from site.options.items()


def _srun(job: Job, site: SchedulerConfig) -> Iterator[str]:
    yield f"--nodes={job.nodes}"
    yield f"--ntasks={job.nodes}"
    yield "--ntasks-per-node=1"
    if site.cpus_per_node is not None:  # since 22.05 srun does not take it over from sbatch
        yield f"--cpus-per-task={site.cpus_per_node}"
    yield "--cpu-bind=none"
    yield "--kill-on-bad-exit=0"  # launchers end by themselves, and the highest exit code says whether to go on
    if site.container is not None and site.container.runtime == "pyxis":
        yield shlex.quote(f"--container-image={site.container.image}")
        mounts = [job.cwd, *site.container.mounts]
        yield shlex.quote("--container-mounts=" + ",".join(m if ":" in m else f"{m}:{m}" for m in mounts))
        yield shlex.quote(f"--container-workdir={job.cwd}")


def _inside(job: Job, site: SchedulerConfig) -> list[str]:
    """Words before a command that runs in the site's image."""
    if site.container is None or site.container.runtime != "apptainer":
        return []
    words = ["apptainer", "exec", *(["--nv"] if site.gpus_per_node else []), "--pwd", job.cwd]
    for mount in (job.cwd, *site.container.mounts):
        words += ["--bind", mount]
    return [*words, site.container.image]


def _started(job: Job, site: SchedulerConfig) -> str:
    """What calls looksay on a node, quoted for the shell, behind what makes a Ray of the nodes."""
    if site.stage_env is not None:  # the folder's name is known on the node only
        own = f"{STAGED_PYTHON} {shell_line(_own_ray(job))} " if job.own_ray_mb is not None else ""
        return own + STAGED
    command = [site.looksay] if site.looksay else ["looksay"] if site.container else own_command()
    own_words = [python_of(site), *_own_ray(job)] if job.own_ray_mb is not None else []
    return shell_line([*_inside(job, site), *own_words, *command])


def _own_ray(job: Job) -> list[str]:
    words = ["-P", "-m", "cluster.rayjobs.own", "--folder", job.folder]
    return [*words, "--store-mb", str(job.own_ray_mb), "--"]


def python_of(site: SchedulerConfig) -> str:
    """The Python that has looksay on the nodes."""
    if site.looksay:
        return str(Path(site.looksay).with_name("python")) if "/" in site.looksay else "python3"
    return "python3" if site.container else sys.executable


def own_command() -> list[str]:
    """How this very looksay is called."""
    script = Path(sys.executable).with_name("looksay")
    return [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "pretrain.cli.main"]


def _as_path(path: str) -> str:
    """`source` looks for a name without a slash on PATH."""
    path = os.path.expanduser(path)
    return path if "/" in path else f"./{path}"
