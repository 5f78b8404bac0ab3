"""Rows for the cost model: a plan's where the dataset is there, else what one typical picture and text make.

dataset -> planner -> rows -> Load of each  --(kept in the user's cache)-->  Rows
--lengths FILE.npz -> planner on bare lengths --^
a picture's size, tokens of text -> layout -> samples that fill a row --^
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from cluster.cost.load import STRETCHES, Load, Rows, Stretch, rows_of
from cluster.cost.segments import grid_of_count, load_from, stretch_of
from configs.errors import UserError
from configs.resolutions import NativeResolution
from configs.schema import TrainRecipe
from data_pipeline.parts.cache import tokenizer_folder

MOST_ROWS = 2048
"""Rows of a plan that are looked at: at 4 bytes a label more would change no digit that is printed."""
COUNTED_AT_ONCE = 20_000
"""Samples whose tokens an estimate counts by itself; more is left to `data pack` and `train`."""
FORMAT = 2


def data_is_here(recipe: TrainRecipe) -> bool:
    """Every source is a local dataset and the tokenizer is there: a plan can be made."""
    folders = [Path(source.path) for source in recipe.data.sources]
    return all((f / "manifest.json").is_file() for f in folders) and tokenizer_file(recipe).is_file()


def uncounted(recipe: TrainRecipe) -> str | None:
    """A source whose tokens nobody has counted yet, which would take more than a moment; None where there is none."""
    for source in recipe.data.sources:
        folder = Path(source.path)
        if not (folder / "tokens").is_dir():
            kept = json.loads((folder / "manifest.json").read_bytes()).get("totals", {}).get("kept", 0)
            if kept > COUNTED_AT_ONCE:
                return source.path
    return None


def tokenizer_file(recipe: TrainRecipe) -> Path:
    """Where it is, or would be."""
    with contextlib.suppress(UserError):  # a hub's, which nobody fetched
        return tokenizer_folder(recipe.data.tokenizer) / "tokenizer.json"
    return Path(recipe.data.tokenizer) / "tokenizer.json"


def vocabulary_of(recipe: TrainRecipe) -> int | None:
    """Tokens of the recipe's tokenizer, read as JSON (no tokenizer library); None where it is not there."""
    path = tokenizer_file(recipe)
    if not path.is_file():
        return None
    tree = json.loads(path.read_bytes())
    words = tree.get("model", {}).get("vocab", {})
    ids = {int(entry["id"]) for entry in tree.get("added_tokens", ())}
    if isinstance(words, dict):
        return len({int(number) for number in words.values()} | ids)
    return len(set(range(len(words))) | ids)


# ---- plans ------------------------------------------------------------------------------------------------------


def planned_rows(recipe: TrainRecipe) -> Rows:
    """Rows of the recipe's own plan, from its first steps. Made once, then read from the user's cache."""
    kept = _cache_file(recipe)
    if kept.is_file():
        tree = json.loads(kept.read_bytes())
        if tree.get("format") == FORMAT:
            return _from_tree(tree)
    from data_pipeline.storage import put
    from data_pipeline.stream.tables import open_data

    data, packing = open_data(recipe), recipe.data.packing
    steps = range(max(1, min(recipe.stage.steps, packing.window_steps, MOST_ROWS // packing.rows_per_step or 1)))
    planned = chain.from_iterable(data.planner.step(step).rows() for step in steps)
    rows = loads_of_rows(recipe, planned, f"the recipe's own plan, {len(steps)} steps")
    put(str(kept), json.dumps({"format": FORMAT, **asdict(rows)}).encode())
    return rows


def rows_of_lengths(recipe: TrainRecipe, path: str) -> Rows:
    """Rows that the planner makes of a bare length set (.npz, as `data pack --lengths` takes it)."""
    from data_pipeline.stream.plan.bare import LengthSet, pack_epoch
    from data_pipeline.stream.plan.window import PlanSettings

    lengths, packing = LengthSet.load(path), recipe.data.packing
    steps = max(1, MOST_ROWS // packing.rows_per_step)
    window = next(iter(pack_epoch(lengths, PlanSettings(packing.length, packing.rows_per_step, steps, chunk=64), 0)))
    bounds = list(zip(window.starts[:-1].tolist(), window.starts[1:].tolist(), strict=True))[:MOST_ROWS]
    return loads_of_rows(recipe, [window.samples[a:b] for a, b in bounds], f"the planner on {path}")


def loads_of_rows(recipe: TrainRecipe, rows: Iterable[Any], source: str) -> Rows:
    """Planned rows (columns of samples) as loads. A picture's share of a sample's patches is taken as equal."""
    model, length = recipe.model, recipe.data.packing.length
    prefixed = model.decoder.attention == "prefix"
    loads = []
    for row in rows:
        grids: list[tuple[float, float]] = []
        for patches, images in zip(row.patches.tolist(), row.images.tolist(), strict=True):
            grids += _views(recipe, patches, images)
        total, visual = int(row.patches.sum()), int(row.visual.sum())
        cells = round(sum(rows * columns for rows, columns in grids))
        if model.resolution.type == "row_column":  # the rest of a picture's positions are text marks
            visual = cells
        if not visual and total:  # bare lengths say nothing of positions
            visual = (model.queries or int(model.pooled)) * len(grids) or cells + model.extra * len(grids)
        labels = int(row.labels.sum()) or int(row.tokens.sum() - min(visual, row.tokens.sum())) // 2
        prefixes = (row.tokens - row.labels).clip(0).tolist() if prefixed else None
        loads.append(
            load_from(
                model,
                stretch_of(row.tokens.tolist(), length, causal=True, prefixes=prefixes),
                grids,
                visual,
                labels,
                pictures=int(row.images.sum()),
                samples=len(row.tokens),
            )
        )
    return rows_of(loads, source)


def _views(recipe: TrainRecipe, patches: int, images: int) -> list[tuple[float, float]]:
    """Rows and columns of (merged) cells of each view of a sample: its pictures, or tiles of a fixed size."""
    model, resolution = recipe.model, recipe.model.resolution
    if not patches:
        return []
    if isinstance(resolution, NativeResolution):
        return [grid_of_count(n / model.merge**2) for n in _split(patches, max(1, images))]
    side = max(1, round(resolution.size / (model.encoder.patch * model.merge)))
    return [(side, side)] * max(1, round(patches / (side * model.merge) ** 2))


def _split(total: int, parts: int) -> list[int]:
    return [total // parts + (n < total % parts) for n in range(parts)]


# ---- an assumption ----------------------------------------------------------------------------------------------


def assumed_rows(recipe: TrainRecipe, picture: tuple[int, int], text: int, labels: int) -> Rows:
    """Rows filled by copies of one sample: a picture of (width, height) pixels and `text` tokens, `labels` learned."""
    from data_pipeline.stream.geometry import geometry_of
    from data_pipeline.stream.resolution import picture_layout

    model, length = recipe.model, recipe.data.packing.length
    made = picture_layout(*picture, geometry_of(model))
    filled = min(made.tokens, length - 1)
    sample = min(length, filled + text)
    count = max(1, length // sample)
    learned = min(labels, sample - filled)
    newlines = marks = 0
    if made.unpadded is not None:
        newlines = made.unpadded[1] - made.unpadded[0]
    elif model.resolution.type == "anyres":
        newlines = 1
    elif made.tiles is not None:
        marks = made.tokens - made.outputs
    prefixes = [sample - learned] * count if model.decoder.attention == "prefix" else None
    load = load_from(
        model,
        stretch_of([sample] * count, length, causal=True, prefixes=prefixes),
        [(view.rows, view.columns) for view in made.views] * count,
        max(0, filled - newlines - marks) * count,
        learned * count,
        newlines=newlines * count,
        pictures=count,
        samples=count,
    )
    said = f"assumed: samples of one {picture[0]} x {picture[1]} picture ({filled} positions) and {sample - filled} of text"
    return rows_of([load], f"{said}, {count} to a row")


# ---- the cache --------------------------------------------------------------------------------------------------


def _cache_file(recipe: TrainRecipe) -> Path:
    """Where the rows of this plan are kept: by everything that they depend on."""
    files = [tokenizer_file(recipe), *(Path(s.path) / "manifest.json" for s in recipe.data.sources)]
    stamps = [(str(f.resolve()), f.stat().st_mtime_ns, f.stat().st_size) for f in files]
    model, data = recipe.model.model_dump(mode="json"), recipe.data.model_dump(mode="json")
    shape = {name: model[name] for name in ("encoder", "resolution", "projector")}
    text = [recipe.model.decoder.attention, recipe.model.decoder.expert]
    key = json.dumps([FORMAT, stamps, shape, text, data, recipe.seed, recipe.stage.steps])
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "looksay" / "rows" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _from_tree(tree: dict[str, Any]) -> Rows:
    def load(fields: dict[str, Any]) -> Load:
        stretches = {name: Stretch(**fields[name]) for name in STRETCHES}
        return Load(**{**fields, **stretches})

    features: Sequence[Sequence[float]] = tree["features"]
    return Rows(load(tree["mean"]), load(tree["heaviest"]), tuple(map(tuple, features)), tree["source"])
