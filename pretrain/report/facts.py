"""What went in and how it went: data with rejections, packing, curves, the freeze table."""

from collections.abc import Iterator
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from configs.load import load_recipe
from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.shard import read_table
from data_pipeline.storage import join, read_bytes
from pretrain.report.folder import read_json, read_lines
from pretrain.report.markup import fold, image, section, table
from pretrain.report.pictures import open_dataset, thumbnail
from pretrain.report.plots import bars, line_chart, packed_rows, padded_rows

THUMBNAILS, REJECTED, ROWS, PLANNED_STEPS = 12, 24, 6, 8
"""Kept samples shown, rejected rows listed, rows drawn to scale, steps planned for them."""


def data(root: Path) -> str:
    """Rows in -> kept and rejected by reason, with thumbnails."""
    folders = sorted(path.parent for path in (root / "data").glob("*/manifest.json"))
    out = [_dataset(str(folder), read_manifest(str(folder))) for folder in folders]
    return section(
        "data", "What went in", "".join(out), "Every row of the source is either kept or rejected for a reason."
    )


def _dataset(folder: str, manifest: Manifest) -> str:
    totals = manifest.totals
    rejected = sum(totals["rejected"].values())
    pictures = ", ".join(f"{n:,} with {k}" for k, n in totals["pictures_per_sample"].items())
    count = totals["kept"]
    shown = "".join(_kept(folder, place * count // THUMBNAILS) for place in range(min(THUMBNAILS, count)))
    reasons = "".join(f"<li>{escape(reason)}: {number:,}</li>" for reason, number in totals["rejected"].items())
    listed = fold(f"the first of {rejected:,} rejected rows", _rejected(folder, manifest)) if rejected else ""
    return (
        f'<article class="wide"><h3>{escape(manifest.name)}</h3>'
        f'<p class="flow"><b>{totals["rows"]:,}</b> rows in <span aria-hidden="true">&rarr;</span> <b class="good">{count:,}</b> kept, '
        f'<b class="{"bad" if rejected else ""}">{rejected:,}</b> rejected</p>'
        f'<p class="truth">pictures a sample: {escape(pictures)}</p>{f"<ul>{reasons}</ul>" if reasons else ""}'
        f'<div class="strip">{shown}</div>{listed}</article>'
    )


def _kept(folder: str, index: int) -> str:
    talk = open_dataset(folder).read(index).conversation
    text = talk.text if talk.messages is None else " ".join(m.content for m in talk.messages[:2])
    return image(thumbnail(folder, index, 0, 64), (text or "").replace("<image>", "").strip()[:80], 64)


def _rejected(folder: str, manifest: Manifest) -> str:
    rows = [
        [f"{r['position']:,}", escape(f"{r['stage']}/{r['reason']}"), escape(r["detail"] or "")]
        for r in _refused(folder, manifest)
    ]
    return table(["row", "reason", "detail"], rows, "Rejected rows")


def _refused(folder: str, manifest: Manifest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for entry in manifest.shards:
        if len(found) >= REJECTED:
            break
        rows = read_table(read_bytes(join(folder, f"{entry.name}.outcomes.parquet"))).to_pylist()
        found += [row for row in rows if row["outcome"] != "kept"]
    return found[:REJECTED]


def packing(stages: dict[str, Path]) -> str:
    """The first rows drawn to scale: each sample padded to its batch's longest, and the same samples packed."""
    out = []
    for name, run in stages.items():
        config = run / "config.yaml"
        found = _packed(str(config), config.stat().st_mtime_ns)
        rows = found["rows_to_scale"][:ROWS]
        visual = [int(value) for value in found["visual_tokens_per_row"]]
        out.append(
            f"<h3>{escape(name)}</h3>"
            + padded_rows(
                list(_batches(rows, max(1, round(found["samples_per_row"])))),
                found["length"],
                f"padded to the longest of a batch: {found['padded_fill']:.1%} of what is computed is real",
            )
            + packed_rows(
                rows,
                found["length"],
                f"the same samples packed into rows of {found['length']}: {found['fill']:.1%}; {found['samples_per_row']:.1f} samples a row, "
                f"{min(visual)} to {max(visual)} visual tokens ({len(visual)} distinct values)",
            )
        )
    return section(
        "packing",
        "Padded and packed, to scale",
        "".join(out),
        "Every block is a sample, as long as its tokens; grey is computed for nothing.",
    )


@lru_cache(maxsize=8)
def _packed(config: str, changed: int) -> dict[str, Any]:
    """Planning takes a moment and a run's plan does not change: once per configuration."""
    from data_pipeline.stream.statistics import pack_statistics

    return pack_statistics(load_recipe(config), steps=PLANNED_STEPS)


def _batches(rows: list[list[int]], size: int) -> Iterator[list[int]]:
    tokens = [count for row in rows for count in row]
    yield from (tokens[i : i + size] for i in range(0, len(tokens), size))


def curves(stages: dict[str, Path]) -> str:
    """Loss, throughput, gradient norm over steps, and where a step's time goes."""
    losses: dict[str, Any] = {}
    speed: dict[str, Any] = {}
    norms: dict[str, Any] = {}
    times = ""
    for name, run in stages.items():
        lines = read_lines(run / "metrics.jsonl")
        rows = [row for row in lines if "loss" in row]
        losses[name] = [(r["step"], r["loss"]) for r in rows]
        losses[f"{name}, held-out"] = [(r["step"], r["validation"]["loss"]) for r in lines if "validation" in r]
        speed[name] = [(r["step"], r["tokens_per_s"]) for r in rows]
        norms[name] = [(r["step"], r["grad_norm"]) for r in rows]
        times += _times(name, rows[1:])
    charts = (
        line_chart("Loss of a learned token, logarithmic", losses, log=True)
        + line_chart("Real tokens a second (padding not counted)", speed, zero=True)
        + line_chart("Gradient norm", norms, log=True)
        + times
    )
    return section("curves", "Learning", charts)


def _times(name: str, rows: list[dict[str, Any]]) -> str:
    """Mean milliseconds of a step's parts; the first step, which warms up, is left out by the caller."""
    if not rows:
        return ""
    parts = [part for part in rows[0]["seconds"] if part != "total"]
    means = [(part, 1000 * sum(r["seconds"].get(part, 0.0) for r in rows) / len(rows)) for part in parts]
    fill, mfu = (sum(row[key] for row in rows) / len(rows) for key in ("fill", "mfu"))
    return bars(
        f"{name}: milliseconds of a step; rows {fill:.1%} full; useful FLOPs {mfu:.0%} of the measured peak", means
    )


def freeze(stages: dict[str, Path]) -> str:
    """What trained, at what learning rate, and what was frozen."""
    rows = []
    for name, run in stages.items():
        for row in read_json(run / "freeze.json") or []:
            state = f"trained at {row['lr']:g}" if row["trainable"] else "frozen"
            rows.append((escape(row["module"]), escape(name), f"{row['parameters']:,}", state))
    return section(
        "freeze",
        "What trained",
        table(["part", "stage", "parameters", ""], rows, "Parts of the model by stage") if rows else "",
    )
