"""What lies in a build's output folder: nothing, a dataset, an unfinished build, or somebody else's files."""

import contextlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from configs.errors import RunError, UserError
from configs.load import tree_difference
from configs.schema import BuildRecipe
from data_pipeline.ingest.dedup.perceptual import NEAR_VERSION
from data_pipeline.manifest import NAME, Manifest, read_manifest
from data_pipeline.storage import (
    TEMPORARY,
    exists,
    glob,
    is_remote,
    join,
    listdir,
    put,
    read_bytes,
    remove,
    remove_tree,
)

BEGUN = "build.json"
FREE = ("output", "name", "ray", "storage")
"""Parts of a recipe that change nothing about the dataset."""

OURS = (
    ".tar",
    ".parquet",
    NAME,
    BEGUN,
    "recipe.yaml",
    "statistics.json",
    "tokens",
    "features",
    "work",
    "log",
)


@dataclass(frozen=True)
class Begun:
    """A build that has begun and not ended. `start` is another one each time that it is started."""

    kind: str
    fingerprint: str
    recipe: dict[str, Any]
    start: str = ""


def look_at(output: str) -> tuple[Manifest | None, Begun | None]:
    """The dataset in the folder, and the build that has not ended.

    Raises:
        UserError: a file stands there, or somebody's files.
    """
    if not is_remote(output) and os.path.exists(output) and not os.path.isdir(output):
        raise UserError(f"output {output} is a file: give a folder")
    names = [name for name in listdir(output) if not name.startswith(TEMPORARY)]
    # Without a mark of ours, tars and parquet files are somebody's too, and `work` is their folder.
    ours = OURS if BEGUN in names or NAME in names else ()
    foreign = [name for name in names if not name.endswith(ours) and not _is_empty(join(output, name))]
    if foreign:
        raise UserError(f"output {output} holds something else ({', '.join(foreign[:3])}): choose an empty folder")
    manifest = read_manifest(output) if NAME in names else None
    begun = None
    if BEGUN in names:
        said = json.loads(read_bytes(join(output, BEGUN)))
        begun = Begun(said.get("kind", "build"), said["fingerprint"], said["recipe"], said.get("start", ""))
    return manifest, begun


def _is_empty(path: str) -> bool:
    """A name under which there is nothing: some object stores still list the folder of what was removed."""
    return is_remote(path) and not glob(f"{path}/**") and not exists(path)


def new_start() -> str:
    """A name for this start of a build: no other has it."""
    return uuid.uuid4().hex


def begin(output: str, begun: Begun) -> None:
    """Leave the mark that this folder is ours, before anything else is written."""
    put(join(output, BEGUN), json.dumps(asdict(begun), sort_keys=True).encode())


def still_ours(output: str, start: str) -> None:
    """Stop where the build was started again meanwhile: this driver was thought dead, and another one goes on.

    What both commit is the same, but only one may clear away what is left.

    Raises:
        RunError: another start has taken over.
    """
    path = join(output, BEGUN)
    there = json.loads(read_bytes(path)).get("start") if exists(path) else None
    if there != start:
        raise RunError(f"the build of {output} was started again elsewhere, and goes on there: this one ends")


def tidy(output: str) -> None:
    """Remove what only an unfinished build needs, and what a killed one left half-written."""
    remove_tree(join(output, "work"))
    if exists(join(output, BEGUN)):
        remove(join(output, BEGUN))
    if not is_remote(output):
        for name in listdir(output):
            if name.startswith(TEMPORARY):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(join(output, name))


def identity_of(recipe: BuildRecipe) -> str:
    """The parts of a recipe that decide what the dataset is, and by which hash near duplicates are told."""
    said = recipe.model_dump(mode="json", exclude=set(FREE))
    return json.dumps(said | ({"near": NEAR_VERSION} if recipe.dedup.near else {}), sort_keys=True)


def recipe_changes(old: dict[str, Any], recipe: BuildRecipe, free: tuple[str, ...] = FREE) -> list[str]:
    """`key: old -> new` of what matters."""
    new = recipe.model_dump(mode="json")
    names = [name for name in dict.fromkeys([*old, *new]) if name not in (*free, "kind")]
    changed = []
    for name in names:
        if name not in old and isinstance(new.get(name), dict):
            continue  # an older version did not have it
        changed += tree_difference(old.get(name), new.get(name), name)
    return changed


def refusal(output: str, changed: list[str], *, extendable: bool) -> UserError:
    """Why a build does not go into a folder that holds another one."""
    shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
    remedy = "take the new rows in with --extend, or " if extendable else ""
    return UserError(
        f"{output} holds another build ({shown}): {remedy}choose another output, or remove the folder to build anew"
    )
