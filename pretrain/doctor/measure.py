"""Start local ranks with our own launcher, let all measure at once, and put their figures together."""

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from cluster.interface import cores
from cluster.launch import launch, rank_environment
from cluster.ranks import Nursery

TARGET, MODULES = (
    "pretrain.doctor.rank:run_as_rank",
    ("pretrain.mesh", "deepspeed", "megatron.core", "pretrain.doctor.rank"),
)


def measure(ranks: int, quick: bool) -> dict[str, Any]:
    """Means over the ranks of everything that `rank.measured` finds.

    Raises:
        RankFailure: a rank failed; its last lines say why.
    """
    threads = max(1, cores() // ranks)
    folder = tempfile.mkdtemp(prefix="looksay-doctor-")  # stays where a rank failed: its log is named
    env = {**rank_environment(0, ranks, 0, threads, None), "PYTHONWARNINGS": "ignore"}
    nursery = Nursery(TARGET, MODULES, env)
    try:
        words = [folder, "quick" if quick else "full"]
        with contextlib.redirect_stdout(io.StringIO()):  # what DeepSpeed says of itself; logs have it
            launch(nursery, words, ranks=ranks, log_dir=f"{folder}/logs", threads=threads)
    finally:
        nursery.close()
    found = [json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
    shutil.rmtree(folder)
    return {**_mean(found), "ranks": ranks, "threads": threads}


def _mean(found: list[Any]) -> Any:
    first = found[0]
    if isinstance(first, dict):
        return {name: _mean([one[name] for one in found]) for name in first}
    if isinstance(first, list):
        return [_mean(list(parts)) for parts in zip(*found, strict=True)]
    if isinstance(first, int | float) and not isinstance(first, bool):
        return fmean(found)
    return first
