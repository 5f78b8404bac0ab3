"""A published model becomes a run at step 0: tensor by tensor, so that memory holds one of them at a time.

RUN/config.yaml                     a recipe with the model; data and stage are for its user to set
RUN/checkpoints/step-00000000.gG    the weights, in their published dtype
RUN/hf/                             config.json, tokenizer, processor as published, and tensors that no part of ours has
"""

import hashlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tqdm import tqdm

from configs.errors import UserError
from configs.load import dump_recipe
from configs.schema import RECIPE, TrainRecipe
from configs.training import OptimConfig
from data_pipeline.storage import put, put_file
from pretrain.checkpoint import files
from pretrain.checkpoint.files import DTYPES, FILES, LEDGER, STATE, Part
from pretrain.checkpoint.geometry import Span
from pretrain.checkpoint.head import SCHEMA, Entry, Heads
from pretrain.guard import Guard
from pretrain.model.hf.families import Matched, match
from pretrain.model.hf.published import Published, tower_inside

HOME, ASIDE = "hf", "aside.safetensors"
KEPT = (".json", ".model", ".jinja", ".txt", ".tiktoken", ".py")
"""Small files that are kept as published: tokenizer, processor, templates, code of models that bring theirs (never run here)."""
MOST_BYTES = 64 << 20
SET_ME = "set-data.sources"


def import_published(folder: Path, run: Path, name: str, progress: bool = True) -> Matched:
    """Make `run` of a published folder. Nothing is written before the whole folder was held against its table.

    Raises:
        UserError: the folder is not whole, is of no known family, or `run` holds something.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run} holds something already: choose another folder for the run")
    published = Published(folder)
    matched = match(published)
    for _, theirs in matched.pairs:
        if published.dtype(theirs) not in DTYPES:
            raise UserError(f"{folder} has {theirs} in {published.dtype(theirs)}: {', '.join(DTYPES)} can be imported")
    recipe = recipe_of(matched, run, name)
    _keep(published, matched, run)
    _weights(published, matched, run, progress)
    put(str(run / "config.yaml"), dump_recipe(recipe).encode())  # last: with it the folder is a run
    return matched


def recipe_of(matched: Matched, run: Path, name: str) -> TrainRecipe:
    """A recipe that trains the model, but for its data."""
    tree = {
        "kind": "train",
        "name": name,
        "model": matched.model.model_dump(mode="json"),
        "data": {
            "sources": [{"path": SET_ME}],
            "tokenizer": str(run / HOME),
            **({"template": {"preset": matched.template}} if matched.template else {}),
            "packing": {"length": 2048, "rows_per_step": 64},
        },
        "stage": {"kind": "sft", "steps": 1000, "train": {"projector": 1e-3}},
    }
    made = RECIPE.validate_python(tree)
    assert isinstance(made, TrainRecipe)
    return made


def _keep(published: Published, matched: Matched, run: Path) -> None:
    home, tower = run / HOME, tower_inside(published.folder, published.config)
    for inside in (Path(), *([tower] if tower else [])):
        (home / inside).mkdir(parents=True)
        for path in sorted((published.folder / inside).iterdir()):
            if (
                path.suffix in KEPT
                and path.is_file()
                and path.stat().st_size <= MOST_BYTES
                and "index" not in path.name
            ):
                shutil.copyfile(path, home / inside / path.name)
    if matched.aside:
        tensors = {theirs: published.tensor(theirs) for theirs in matched.aside}
        put_file(str(home / ASIDE), lambda target: save_file(tensors, target))


def _weights(published: Published, matched: Matched, run: Path, progress: bool) -> None:
    heads = Heads(str(run / "checkpoints"))
    generation = heads.claim().generation
    place = run / "checkpoints" / f"step-00000000.g{generation:08d}"
    parts, rules, at = [], {}, 0
    for rule, theirs in matched.pairs:
        dtype = DTYPES[published.dtype(theirs)]
        span = Span(rule.shape, None, 0, None, 0, 0)
        size = span.columns * dtype.itemsize
        parts.append(Part("master", rule.ours, replace(span, stop=span.columns), dtype, at, size))
        rules[rule.ours], at = (rule, theirs), at + size
    with tqdm(total=len(parts), unit=" tensor", desc="import", disable=None if progress else True) as bar:

        def data(part: Part) -> memoryview:
            rule, theirs = rules[part.name]
            bar.update()
            found = rule.take(published.tensor(theirs)).contiguous().view(-1)
            return memoryview(found.view(DTYPES["U8"]).numpy())

        sha, size = files.write(str(place / "rank-00000.safetensors"), parts, data)
    state: dict[str, Any] = {
        "schema": SCHEMA,
        "step": 0,
        "generation": generation,
        "frozen": None,
        "optimizer_steps": 0,
        "loader": None,
    }
    state |= {"guard": Guard(OptimConfig()).state(), "best": None, "worse": 0}
    own = {STATE: json.dumps(state, indent=1).encode(), LEDGER: b""}
    listed: dict[str, dict[str, Any]] = {
        key: {"sha256": hashlib.sha256(value).hexdigest(), "bytes": len(value)} for key, value in own.items()
    }
    listed["rank-00000.safetensors"] = {"sha256": sha, "bytes": size}
    own[FILES] = json.dumps({"schema": SCHEMA, "step": 0, "files": listed}, indent=1).encode()
    for key, value in own.items():
        put(str(place / key), value)
    entry = Entry(0, generation, place.name, hashlib.sha256(own[FILES]).hexdigest(), time.time())
    heads.change(generation, lambda head: replace(head, entries=(*head.entries, entry)))
