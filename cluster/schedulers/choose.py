"""The scheduler that a site has. A further one is a class like `Slurm` (see the protocol in job.py) and a line here."""

from cluster.schedulers.job import Scheduler
from cluster.schedulers.slurm import Slurm
from configs.errors import UserError
from configs.scheduler import SchedulerConfig


def scheduler_of(config: SchedulerConfig | None, site: str) -> Scheduler:
    """What jobs of this site are handed to.

    Raises:
        UserError: the site names none, or one that jobs cannot be handed to yet.
    """
    if config is None:
        raise UserError(
            f"site {site} names no scheduler: run the command without submit, or add `scheduler: slurm` to a site file of yours "
            f"that says `extends: {site}`"
        )
    if config.type == "slurm":
        return Slurm(config, site)
    raise UserError(
        f"site {site} says scheduler: {config.type}, which submit cannot use yet: take a site with scheduler: slurm, or hand the "
        "command to `ray job submit -- looksay ...` yourself"
    )
