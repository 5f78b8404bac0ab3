"""The run folder as a contract: whose it is, checked before anything is written into it. No torch."""

import os
from pathlib import Path

from configs.errors import UserError
from configs.load import difference, load_recipe
from configs.schema import TrainRecipe

BEFORE_START = ("logs", "jobs.json", ".looksay-")
"""What a launcher, or another rank about to publish config.yaml, may have put there before this one looks."""
FREE = ("parallel", "log", "checkpoint", "evaluate", "name")
"""Parts of a recipe that may change between the starts of a run: topology, logging, pace."""


def step_of(folder: Path) -> int:
    """Of a checkpoint's folder.

    >>> step_of(Path("run/checkpoints/step-00000100"))
    100
    """
    return int(folder.name.removeprefix("step-"))


def steps_of(run: Path) -> list[int]:
    """Steps with a committed checkpoint, ascending."""
    found = (run / "checkpoints").glob("step-*/COMMIT")
    return sorted(step_of(path.parent) for path in found)


def check_run_folder(folder: Path, recipe: TrainRecipe, option: str = "--run") -> None:
    """The folder is new, or holds this very run. `option` is what chooses another folder.

    Raises:
        UserError: it holds a run of another recipe, or something else.
    """
    path = folder / "config.yaml"
    if path.exists():
        old = load_recipe(str(path))
        changes = difference(old.model_copy(update={part: getattr(recipe, part) for part in FREE}), recipe)
        if changes:
            raise UserError(
                f"{folder} holds a run of another recipe ({'; '.join(changes[:4])}): choose another {option}, "
                "or remove the folder to train anew"
            )
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"run folder {folder} is a file: choose another {option}")
    elif folder.exists() and any(not name.startswith(BEFORE_START) for name in os.listdir(folder)):
        raise UserError(f"run folder {folder} holds something else: choose another {option} or empty it")
