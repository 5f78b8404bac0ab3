"""`looksay data ...`: build, verify, show, tokenizer, pack, stream."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.errors import DONE, FAILED, UserError
from pretrain.cli import build, plan
from pretrain.cli.output import emit
from pretrain.cli.parser import Parser, add_dry_run, add_json, add_verb, count


def add_verbs(groups: Any) -> None:
    data = groups.add_parser(
        "data",
        help="make and look at datasets",
        description="Make datasets and look at them. `looksay data VERB --help` has examples.",
    )
    verbs = data.add_subparsers(dest="data_verb", metavar="VERB", required=True, parser_class=Parser)
    build.add_build(verbs)
    _add_readers(verbs)
    _add_index(verbs)
    _add_tokenizer(verbs)
    plan.add_plan(verbs)


def _add_readers(verbs: Any) -> None:
    verify = add_verb(
        verbs,
        "verify",
        _verify,
        "Prove that input rows = kept + rejected, and every hash, of a dataset.",
        ["looksay data verify runs/demo/data/vqa_train"],
    )
    verify.add_argument("dataset", metavar="DATASET")
    add_json(verify)
    show = add_verb(
        verbs,
        "show",
        _show,
        "Say what a dataset holds, or write a gallery of it.",
        [
            "looksay data show runs/demo/data/vqa_train",
            "looksay data show runs/mine/data --html gallery.html --limit 200",
        ],
    )
    show.add_argument("dataset", metavar="DATASET")
    show.add_argument("--samples", type=count, default=5, help="samples to print (default 5)")
    show.add_argument("--html", metavar="FILE", help="write a self-contained gallery")
    show.add_argument("--limit", type=count, default=120, help="most samples of the gallery (default 120)")
    add_json(show)
    add_dry_run(show)


def _add_index(verbs: Any) -> None:
    index = add_verb(
        verbs,
        "index",
        _index,
        "Index WebDataset tars that somebody else made, so that training reads them at random. Nothing is copied.",
        ["looksay data index /data/cc12m", "looksay data index shard-0.tar shard-1.tar --out runs/cc12m/data --json"],
    )
    index.add_argument("tars", nargs="+", metavar="TARS", help="tars, or one folder that holds them")
    index.add_argument(
        "--out", metavar="FOLDER", help="the dataset's folder, which links to the tars (default: theirs)"
    )
    add_json(index)
    add_dry_run(index)


def _add_tokenizer(verbs: Any) -> None:
    tokenizer = add_verb(
        verbs,
        "tokenizer",
        _tokenizer,
        "Train a small byte-level BPE tokenizer on the texts of datasets, or take a published one and give it a picture's mark.",
        [
            "looksay data tokenizer runs/mine/data --out runs/mine/tokenizer --vocab 1024",
            "looksay data tokenizer runs/tiny/data --out runs/tiny/tokenizer_blip2 --vocab 1024 --recipe tiny_blip2",
            "looksay data tokenizer model.gguf --out runs/mine/tokenizer",
            "looksay data tokenizer lmsys/vicuna-7b-v1.5 --out runs/mine/tokenizer --mark '<image>' --mark '<pad>'",
        ],
    )
    tokenizer.add_argument(
        "datasets",
        nargs="+",
        metavar="DATASET",
        help="or one published tokenizer: a folder with tokenizer.json, ORG/NAME of a hub, a .gguf file, package:NAME",
    )
    tokenizer.add_argument(
        "--mark",
        action="append",
        metavar="TOKEN",
        help="special token that a published tokenizer gets where it lacks it (default <image>); repeatable",
    )
    tokenizer.add_argument("--out", required=True, metavar="FOLDER", help="where tokenizer.json goes")
    tokenizer.add_argument("--vocab", type=count, default=2048, help="most tokens (default 2048)")
    tokenizer.add_argument("--recipe", help="whose template's marks become tokens (default: looksay's own template)")
    add_dry_run(tokenizer)


def _verify(args: argparse.Namespace) -> int:
    from data_pipeline.ingest.shared import shared
    from data_pipeline.ingest.verify import verify

    report, files = verify(args.dataset), shared(args.dataset)
    found = f"{len(report.problems)} problems" if report.problems else "every count and hash is right"
    counted = f"; {files.said}" if files else ""
    lines = [*report.problems, f"{args.dataset}: {report.shards} shards, {report.samples} samples: {found}{counted}"]
    emit({"ok": not report.problems, "inodes": files and files.inodes, **asdict(report)}, "\n".join(lines), args.json)
    return FAILED if report.problems else DONE


def _show(args: argparse.Namespace) -> int:
    from data_pipeline.manifest import read_manifest

    read_manifest(args.dataset)
    if args.html is not None and args.dry_run:
        print(f"would write a gallery of {args.dataset} to {args.html}")
        return DONE
    from data_pipeline.ingest.gallery import show, write_gallery

    if args.html is not None:
        print(write_gallery(args.dataset, args.html, args.limit))
    else:
        print(show(args.dataset, args.samples, as_json=args.json))
    return DONE


def _index(args: argparse.Namespace) -> int:
    paths = [Path(name) for name in args.tars]
    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        raise UserError(f"{missing} does not exist: give tars, or a folder that holds some")
    tars = [tar for path in paths for tar in (sorted(path.glob("*.tar")) if path.is_dir() else [path])]
    out = Path(args.out) if args.out else paths[0] if paths[0].is_dir() else paths[0].parent
    if args.dry_run:
        print(f"would index {len(tars)} tars into {out}")
        return DONE
    from data_pipeline.ingest.adopt import adopt

    totals = adopt(tars, out).totals
    rejected = ", ".join(f"{count} {reason}" for reason, count in totals["rejected"].items())
    text = f"{out}: {totals['kept']} samples of {len(tars)} tars, {totals['bytes'] / 1e9:.2f} GB" + (
        f"; not indexed: {rejected}" if rejected else ""
    )
    emit({"dataset": str(out), "tars": len(tars), **totals}, text, args.json)
    return DONE


def _marks(recipe: str) -> tuple[Any, tuple[str, ...]]:
    """A train recipe's template, and the marks that its resolution puts between tiles."""
    from configs.load import load_recipe
    from configs.resolutions import RowColumnResolution
    from configs.schema import TrainRecipe
    from data_pipeline.stream.rendered import CONTROL
    from data_pipeline.stream.row_column import MARKS

    loaded = load_recipe(recipe)
    if not isinstance(loaded, TrainRecipe):
        raise UserError(f"{recipe} is a build recipe: give a train recipe, whose data.template has marks")
    template = loaded.data.template
    around = [text for text in template.texts if "{n}" not in text]
    special = [mark for text in template.texts for mark in CONTROL.findall(text)]
    tiles = MARKS if isinstance(loaded.model.resolution, RowColumnResolution) else ()
    return template, (*around, *special, *tiles)


def _tokenizer(args: argparse.Namespace) -> int:
    from data_pipeline.manifest import read_manifest
    from data_pipeline.stream.tokenizer import train_tokenizer

    if _is_published(args.datasets[0]):
        return _taken_tokenizer(args)
    for folder in args.datasets:
        read_manifest(folder)
    template, marks = _marks(args.recipe) if args.recipe else (None, ())
    if args.dry_run:
        print(f"would train a tokenizer of at most {args.vocab} tokens on {', '.join(args.datasets)} into {args.out}")
        return DONE
    size = train_tokenizer(args.datasets, args.out, args.vocab, template, marks)
    print(f"wrote {args.out}: {size} tokens; give it as data.tokenizer")
    return DONE


def _is_published(text: str) -> bool:
    """Whether it is a tokenizer, not a dataset to train one on."""
    from data_pipeline.parts.name import Hub, Package, part_of

    folder = Path(text)
    if folder.is_dir():
        return not (folder / "manifest.json").exists() and any(folder.glob("tokenizer*"))
    return text.endswith(".gguf") or isinstance(part_of(text), Hub | Package)


def _taken_tokenizer(args: argparse.Namespace) -> int:
    """A published tokenizer, and marks behind it."""
    from data_pipeline.parts.cache import tokenizer_folder
    from data_pipeline.stream.tokenizer import take_tokenizer
    from pretrain.model.hf.gguf import weights_path
    from pretrain.model.hf.gguf_tokenizer import write_tokenizer

    text, marks = args.datasets[0], tuple(args.mark or ["<image>"])
    if len(args.datasets) > 1:
        raise UserError(f"{text} has a tokenizer of its own: give it alone, without {args.datasets[1]}")
    inside = text.endswith(".gguf") or text.startswith("package:")
    path = weights_path(text) if inside else tokenizer_folder(text)
    if args.dry_run:
        print(f"would write the tokenizer of {path} into {args.out}")
        return DONE
    size = (write_tokenizer if inside else take_tokenizer)(path, Path(args.out), marks)
    print(f"wrote {args.out}: {size} tokens; give it as data.tokenizer")
    return DONE
