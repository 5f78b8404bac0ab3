"""`looksay data build`: a recipe, or SOURCE OUT with a handful of options that a recipe is made of."""

import argparse
import os
from typing import Any

from configs.errors import DONE, UserError
from pretrain.cli.output import emit
from pretrain.cli.parser import add_dry_run, add_json, add_set, add_verb, count, number, positive

SOURCES = (
    "a folder of pictures with NAME.txt or NAME.json beside each; a list of URLs, paths or pictures "
    "(.parquet .csv .tsv .json .jsonl, .gz too); .tar shards; a save_to_disk folder; hf://datasets/NAME. Globs, braces "
    "and s3:// are fine"
)
TABLES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".arrow")

MODES = ("keep-ratio", "keep-ratio-largest", "center-crop", "border", "none")

OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("--image-column", "source.image_column", {"metavar": "NAME", "help": "column of URLs, paths or bytes"}),
    ("--text-column", "source.text_column", {"metavar": "NAME", "help": "column of captions"}),
    ("--image-root", "source.image_root", {"metavar": "DIR", "help": "folder that paths in a list are below"}),
    (
        "--mode",
        "images.mode",
        {"choices": MODES, "help": "how pictures are resized (default keep-ratio: shortest side)"},
    ),
    ("--size", "images.size", {"type": count, "metavar": "PIXELS", "help": "their size (default 256)"}),
    ("--format", "images.format", {"choices": ("jpg", "png", "webp"), "help": "how they are stored (default jpg)"}),
    ("--shard-size", "shard_size", {"type": count, "metavar": "N", "help": "samples of a shard (default 10000)"}),
    ("--deadline", "fetch.deadline", {"type": positive, "metavar": "SECONDS", "help": "for one picture (default 20)"}),
    (
        "--workers",
        "ray.workers",
        {"type": number, "metavar": "N", "help": "tasks at a time (default: cores; 0: no Ray)"},
    ),
    ("--endpoint-url", "storage.endpoint_url", {"metavar": "URL", "help": "S3 server other than AWS"}),
)
"""Option, the key of the recipe that it sets, and argparse's settings."""


def add_build(verbs: Any) -> None:
    build = add_verb(
        verbs,
        "build",
        _build,
        f"Make a dataset. SOURCE is {SOURCES}. Run again to continue a build that was cut short.",
        [
            "looksay data build photos/ runs/mine/data",
            "looksay data build laion-part-0.parquet runs/laion --image-column URL --text-column TEXT --size 384",
            "looksay data build 's3://bucket/cc12m-{0000..0099}.tar' s3://bucket/cc12m --endpoint-url http://minio:9000",
            "looksay data build llava.json runs/llava --image-root coco/train2017",
            "looksay data build runs/laion/recipe.yaml --retry-failed --deadline 60",
            "looksay data build demo_vqa_train --set ray.workers=4",
        ],
    )
    build.add_argument(
        "what", nargs="+", metavar="WORD", help="SOURCE OUT: a source and a new folder; or RECIPE: a build recipe"
    )
    for option, _, settings in OPTIONS:
        build.add_argument(option, **settings)
    build.add_argument(
        "--allow-private", action="store_true", help="fetch from private and loopback addresses too (intranets)"
    )
    again = build.add_mutually_exclusive_group()
    again.add_argument("--extend", action="store_true", help="take rows that are new into a finished dataset")
    again.add_argument("--retry-failed", action="store_true", help="try again what could not be fetched")
    add_set(build)
    add_json(build)
    add_dry_run(build)


def overrides_of(args: argparse.Namespace) -> list[str]:
    """Options as `--set` values; what `--set` says itself comes after them."""
    out = []
    for option, key, _ in OPTIONS:
        value = getattr(args, option[2:].replace("-", "_"))
        if value is not None:
            out.append(f"{key}={value}")
    if args.allow_private:
        out.append("fetch.allow_private=true")
    return [*out, *args.set]


def build_recipe_of(what: list[str], overrides: list[str]) -> Any:
    """The build recipe that `data build` was given by name, or a default one for SOURCE OUT."""
    from configs.load import load_recipe, resolve
    from configs.schema import BuildRecipe

    if len(what) > 2:
        raise UserError(
            f"data build takes SOURCE OUT or one RECIPE, not {len(what)} words: quote paths that have spaces or stars"
        )
    if len(what) == 2:
        source, out = what
        name = out.rstrip("/").rsplit("/", 1)[-1] or "data"
        tree = {"kind": "build", "name": name, "source": _source_of(source), "output": out, "shard_size": 10_000}
        return resolve(f"of {source}", [("the command line", tree)], overrides)
    if os.path.isdir(what[0]) or _ending(what[0]) in (*TABLES, ".tar"):
        raise UserError(f"data build {what[0]} has no output folder: add one, `looksay data build {what[0]} OUT`")
    recipe = load_recipe(what[0], overrides)
    if not isinstance(recipe, BuildRecipe):
        raise UserError(
            f"{what[0]} is a training recipe: use `looksay train {what[0]}`, or give a recipe with kind: build"
        )
    return recipe


def _ending(source: str) -> str:
    plain = source.removesuffix(".gz")
    return next((ending for ending in (*TABLES, ".tar") if plain.endswith(ending)), "")


def _source_of(source: str) -> dict[str, str]:
    """What kind of source a path is."""
    ending = _ending(source)
    if ending == ".tar":
        return {"type": "webdataset", "path": source}
    if ending == ".json" and _is_coco(source):
        return {"type": "coco", "path": source}
    if ending or source.startswith(("package:", "hf://")):
        return {"type": "table", "path": source}
    if os.path.isdir(source):
        saved = any(os.path.exists(os.path.join(source, name)) for name in ("state.json", "dataset_dict.json"))
        return {"type": "table" if saved else "folder", "path": source}
    what = "is not one of these" if os.path.exists(source) else "does not exist"
    raise UserError(f"source {source} {what}: give {SOURCES}")


def _is_coco(path: str) -> bool:
    """COCO's file is one object, lists of rows are an array."""
    from data_pipeline.storage import exists, is_remote, read_range

    if is_remote(path) or not exists(path) or path.endswith(".gz"):
        return False
    return read_range(path, 0, 4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _build(args: argparse.Namespace) -> int:
    recipe = build_recipe_of(args.what, overrides_of(args))
    from data_pipeline.ingest.job import build
    from data_pipeline.ingest.rows_in import count_rows
    from data_pipeline.ingest.shared import shared
    from data_pipeline.ingest.sources.inputs import describe

    if args.dry_run:
        rows = count_rows(recipe)
        emit(
            {"rows": rows, "output": recipe.output, "recipe": recipe.model_dump(mode="json")},
            f"would build {recipe.output} from {rows:,} input rows of {describe(recipe.source)}",
            args.json,
        )
        return DONE
    manifest = build(recipe, progress=not args.json, extend=args.extend, retry_failed=args.retry_failed)
    totals = manifest.totals
    rejected = ", ".join(f"{n:,} {reason}" for reason, n in totals["rejected"].items()) or "0"
    files = shared(recipe.output)
    counted = f", {files.said}" if files else ""
    told = {"output": recipe.output, "reused": manifest.reused, "version": manifest.version}
    emit(
        {**told, "inodes": files and files.inodes, **totals},
        f"{_did(args, manifest)} {recipe.output}: {totals['rows']:,} rows in, {totals['kept']:,} samples kept, "
        f"rejected: {rejected}; {len(manifest.shards)} shards{counted}\n"
        f"next: looksay data show {recipe.output}",
        args.json,
    )
    return DONE


def _did(args: argparse.Namespace, manifest: Any) -> str:
    if args.extend:
        return "found nothing new for" if manifest.reused else "extended"
    if args.retry_failed:
        return "got nothing more for" if manifest.reused else "retried failed rows of"
    return "reused" if manifest.reused else "built"
