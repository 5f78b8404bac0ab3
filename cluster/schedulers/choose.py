"""The scheduler that a site has, or that a job was handed to. A further one is a class like `Slurm` (protocol in job.py) and a line here."""

from collections.abc import Mapping
from typing import Any

from cluster.schedulers.job import Scheduler
from cluster.schedulers.ray_jobs import RayJobs
from cluster.schedulers.slurm import Slurm
from configs.errors import UserError
from configs.scheduler import SchedulerConfig

KINDS: dict[str, type[Slurm] | type[RayJobs]] = {"slurm": Slurm, "ray": RayJobs}


def scheduler_of(config: SchedulerConfig | None, site: str) -> Scheduler:
    """What jobs of this site are handed to.

    Raises:
        UserError: the site names none.
    """
    if config is None:
        raise UserError(
            f"site {site} names no scheduler: run the command without submit, or add `scheduler: slurm` to a site file of yours "
            f"that says `extends: {site}`"
        )
    return KINDS[config.type](config, site)


def scheduler_of_job(noted: Mapping[str, Any]) -> Scheduler:
    """What a job was handed to, from its line in submitted.jsonl."""
    kind = noted.get("scheduler") or "slurm"
    where = {key: noted[key] for key in ("address", "token_file") if noted.get(key)} if kind == "ray" else {}
    return scheduler_of(SchedulerConfig.model_validate({"type": kind, **where}), str(noted.get("site", "")))
