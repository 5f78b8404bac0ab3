"""The run folder as a contract: whose it is, checked before anything is written into it. No torch."""

import json
import os
import time
from pathlib import Path

from configs.errors import UserError
from configs.load import difference, load_recipe
from configs.schema import TrainRecipe
from data_pipeline.storage import put
from pretrain.checkpoint.head import Heads

BEFORE_START = ("logs", "jobs.json", ".looksay-")
"""What a launcher, or another rank about to publish config.yaml, may have put there before this one looks."""
FREE = (
    "parallel",
    "log",
    "checkpoint",
    "evaluate",
    "name",
    "data.workers",
    "data.ahead",
    "data.planner",
    "data.read",
    "optim.nonfinite",
    "optim.max_nonfinite",
    "optim.spike_ratio",
)
"""Keys of a recipe that may change between the starts of a run: topology, pace, logging, what is done about failures."""
ELSEWHERE = "elsewhere.json"


def checkpoints_of(run: str | Path) -> str:
    """Folder or URL of a run's checkpoints: RUN/checkpoints, unless the recipe's `checkpoint.folder` put them elsewhere."""
    home = Path(run) / "checkpoints"
    try:
        return str(json.loads((home / ELSEWHERE).read_bytes())["folder"])
    except FileNotFoundError:
        return str(home)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{home / ELSEWHERE} cannot be read ({error}): it should hold the checkpoints' folder"
        ) from None


def place_checkpoints(run: Path, folder: str | None) -> None:
    """Note where the checkpoints of a run are.

    Raises:
        UserError: they are somewhere else already.
    """
    wanted = folder or str(run / "checkpoints")
    if Heads(checkpoints_of(run)).read().version and checkpoints_of(run) != wanted:
        raise UserError(
            f"{run} has checkpoints in {checkpoints_of(run)}, not in {wanted}: set checkpoint.folder back, or copy the folder "
            f"and correct {run / 'checkpoints' / ELSEWHERE}"
        )
    if folder is not None:
        put(str(run / "checkpoints" / ELSEWHERE), json.dumps({"folder": folder}).encode())


def steps_of(run: Path) -> list[int]:
    """Steps with a committed checkpoint, ascending."""
    return Heads(checkpoints_of(run)).read().steps


def check_run_folder(folder: Path, recipe: TrainRecipe, option: str = "--run") -> None:
    """The folder is new, or holds this very run. `option` is what chooses another folder.

    Raises:
        UserError: it holds a run of another recipe, or something else.
    """
    path = folder / "config.yaml"
    if path.exists():
        changes = [change for change in difference(load_recipe(str(path)), recipe) if not _may_change(change)]
        if changes:
            new = f"looksay train RECIPE --run {folder}-2 --set stage.start_from={folder}"
            raise UserError(
                f"{folder} holds a run of another recipe ({'; '.join(changes[:4])}): choose another {option}, or start a new "
                f"run from these weights with `{new}`"
            )
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"run folder {folder} is a file: choose another {option}")
    elif folder.exists() and any(not name.startswith(BEFORE_START) for name in os.listdir(folder)):
        raise UserError(f"run folder {folder} holds something else: choose another {option} or empty it")


def _may_change(change: str) -> bool:
    """Whether a line of `difference`, which begins with its key, is of a key that may change."""
    key = change.split(":", 1)[0].split(" ", 1)[0]
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def finish(run: Path, step: int, steps: int) -> None:
    """What comes after the last checkpoint, also where a kill came between: the status says that the run is done."""
    try:
        said = json.loads((run / "status.json").read_bytes()).get("state")
    except (OSError, ValueError):
        said = None
    if said != "done" and step >= steps:
        status = {"state": "done", "step": step, "steps": steps, "time": time.time()}
        put(str(run / "status.json"), json.dumps(status).encode())
