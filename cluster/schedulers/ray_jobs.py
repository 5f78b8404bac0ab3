"""Jobs on an existing Ray cluster, through its Jobs API. The file that `render` makes is the request, word for word."""

import json
import os
import re
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.rayjobs.api import JobsApi, NotFound
from cluster.rayjobs.package import package_of
from cluster.schedulers.job import Job, State, Submitted
from cluster.schedulers.slurm_script import own_command, python_of
from configs.errors import RunError, UserError
from configs.scheduler import SchedulerConfig

STOP_SECONDS = 60
"""So long may a job that is cancelled take for a checkpoint: Ray's own patience is 3 s."""
STATES = {"SUCCEEDED": "COMPLETED", "STOPPED": "CANCELLED"}
SETUP = 'exec "$@"'


class RayJobs:
    """The Ray cluster whose Jobs API is at the site's address."""

    def __init__(self, config: SchedulerConfig, site: str):
        self.config, self.site = config, site
        self.api = JobsApi(config.address, config.token_file)

    @property
    def where(self) -> dict[str, str]:
        """What finds this cluster again."""
        more = (
            {"token_file": os.path.abspath(os.path.expanduser(self.config.token_file))}
            if self.config.token_file
            else {}
        )
        return {"address": self.config.address, **more}

    def render(self, job: Job) -> str:
        """The request as JSON: entrypoint (it asks for processors and GPUs by itself, on the nodes) and its environment.

        Raises:
            UserError: Ray cannot do it.
        """
        if job.array is not None:
            raise UserError("Ray has no arrays: one build uses all nodes; leave out --array, or take a site with SLURM")
        request: dict[str, Any] = {
            "entrypoint": shlex.join(_entrypoint(job, self.config)),
            "runtime_env": _environment(self.config),
            "metadata": {"name": job.name, "made_by": job.shown},
        }
        return json.dumps(request, indent=1)

    def check(self, job: Job) -> None:
        """The cluster answers and lets us in. Whether it has the nodes is found out by the job, for they may yet come."""
        self.api.version()

    def submit(self, job: Job, script: str) -> Submitted:
        """Send the request of a file."""
        request = json.loads(Path(script).read_bytes())
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", job.name)
        request["submission_id"] = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        if self.config.working_dir is not None:
            package, data = package_of(self.config.working_dir)
            if not self.api.has_package(package):
                self.api.put_package(package, data)
        number = self.api.submit(request)
        log = str(Path(job.folder) / f"ray-{number}.out")
        return Submitted(number, log, f"tail -F {shlex.quote(log)}")

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        """What Ray knows of jobs; a cluster that was started anew knows none."""
        found = {}
        for number in ids:
            try:
                told = self.api.job(number)
            except NotFound:
                found[number] = State(number, None)
            except (UserError, RunError) as error:
                return {other: State(other, "UNKNOWN", str(error)) for other in ids}
            else:
                found[number] = state_of(number, told)
        return found

    def cancel(self, ids: Sequence[str]) -> None:
        """Tell jobs to end."""
        for number in ids:
            self.api.stop(number)


def state_of(number: str, told: dict[str, Any]) -> State:
    """A job's state from the API's answer, whose times are in milliseconds."""
    status = str(told.get("status"))
    begin, end = told.get("start_time"), told.get("end_time")
    seconds = ((end or time.time() * 1000) - begin) / 1000 if begin else None
    # The message of a failed job ends with the last lines of its log.
    said = [line.strip() for line in str(told.get("message") or "").splitlines() if line.strip()] or [""]
    reason = "" if status in ("RUNNING", "SUCCEEDED", "STOPPED") else said[-1].removeprefix("looksay: ")[:500]
    return replace(State(number, STATES.get(status, status), reason), run_seconds=seconds)


def _entrypoint(job: Job, config: SchedulerConfig) -> list[str]:
    prefix = _set_up(config)
    if config.working_dir is not None:
        python, command = "python3", ["python3", "-P", "-m", "pretrain.cli.main"]
    else:
        python, command = python_of(config), [config.looksay] if config.looksay else own_command()
    words = [*prefix, python, "-P", "-m", "cluster.rayjobs.driver", "--folder", job.folder]
    words += [word for other in job.after for word in ("--after", other)]
    if config.working_dir is None:
        words += ["--cwd", job.cwd]
    if job.ranks_per_node is not None:
        cpus = config.cpus_per_node or job.ranks_per_node
        words += ["--nodes", str(job.nodes), "--ranks", str(job.ranks_per_node), "--cpus", str(cpus)]
        words += ["--gpus", str(config.gpus_per_node)] if config.gpus_per_node else []
        words += ["--fewest", str(config.min_nodes)] if config.min_nodes is not None else []
        words += ["--wait", f"{config.wait_seconds:g}", "--most", str(config.max_requeues)]
    # Set up once more on each node: a launcher there inherits Ray's environment, not this process's.
    return [*words, "--", *(prefix if job.ranks_per_node is not None else []), *command, *job.words]


def _set_up(config: SchedulerConfig) -> list[str]:
    """Words before a command that load modules and source files, whose names no shell reads as more than names."""
    lines = [f"module load {shlex.quote(module)}" for module in config.modules]
    lines += [f"source {shlex.quote(os.path.abspath(os.path.expanduser(path)))}" for path in config.setup_files]
    return ["bash", "-c", " && ".join([*lines, SETUP]), "looksay"] if lines else []


def _environment(config: SchedulerConfig) -> dict[str, Any]:
    env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "PYTHONSAFEPATH": "1", **config.env}
    if config.working_dir is None:
        return {"env_vars": env}
    return {"env_vars": env, "working_dir": f"gcs://{package_of(config.working_dir)[0]}"}
