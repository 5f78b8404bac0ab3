"""summary.json and predictions.jsonl of a demo, out of what its parts left in their folders."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from configs.load import load_recipe
from data_pipeline.manifest import read_manifest
from data_pipeline.storage import put
from data_pipeline.stream.statistics import pack_statistics
from pretrain.provenance import provenance
from pretrain.report.folder import STAGES, read_json, read_lines


def write_summary(root: Path, seconds: dict[str, float], install: float | None) -> dict[str, Any]:
    """Write ROOT/summary.json and ROOT/predictions.jsonl; returns the summary.

    Args:
        seconds: work by part (data, ranks, segment, total).
        install: seconds of the set-up, None where nobody measured it.
    """
    steps = {name: [row for row in read_lines(root / name / "metrics.jsonl") if "loss" in row] for name in STAGES}
    captioned = json.loads((root / "caption" / "evaluation" / "evaluation.json").read_bytes())
    asked = json.loads((root / "sft" / "evaluation" / "evaluation.json").read_bytes())
    segment = json.loads((root / "segment" / "segment.json").read_bytes())
    packing = {name: pack_statistics(load_recipe(str(root / name / "config.yaml"))) for name in STAGES}
    retrieval = next(key for key in captioned["caption"] if key.startswith("retrieval"))
    summary = {
        "data": data_totals(root),
        "packing": {
            "fill": sum(row["fill"] for row in steps["sft"]) / len(steps["sft"]),
            "visual_tokens_per_row": visual_tokens(packing),
            "stages": {name: {k: v for k, v in p.items() if k != "rows_to_scale"} for name, p in packing.items()},
        },
        "caption": {
            "loss_first": steps["caption"][0]["loss"],
            "loss_last": steps["caption"][-1]["loss"],
            "retrieval_at_1_of_100": captioned["caption"][retrieval],
            "interval": captioned["caption"]["interval"],
            "chance": captioned["caption"]["chance"],
        },
        "vqa": asked["vqa"],
        "image_swap": asked["image_swap"],
        "resume": {"bitwise": segment["bitwise"], **{k: segment[k] for k in ("first", "killed_at", "last")}},
        "train": training_speed(steps),
        "seconds": all_seconds(root, seconds, install),
        "versions": {**provenance(), "hardware": (read_json(root / "sft" / "versions.json") or {}).get("hardware")},
        "seed": load_recipe(str(root / "sft" / "config.yaml")).seed,
    }
    put(str(root / "summary.json"), json.dumps(summary, indent=1).encode())
    put(str(root / "predictions.jsonl"), (root / "sft" / "evaluation" / "predictions.jsonl").read_bytes())
    return summary


def data_totals(root: Path) -> dict[str, Any]:
    """Rows in, kept, rejected and pictures per sample: all datasets together, and each."""
    pictures: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    each = {}
    for folder in sorted((root / "data").iterdir()):
        if not (folder / "manifest.json").exists():
            continue
        totals = read_manifest(str(folder)).totals
        each[folder.name] = totals
        pictures.update(totals["pictures_per_sample"])
        rejected.update(totals["rejected"])
    rows, kept = sum(t["rows"] for t in each.values()), sum(t["kept"] for t in each.values())
    return {
        "rows": rows,
        "kept": kept,
        "rejected": dict(rejected),
        "pictures_per_sample": dict(sorted(pictures.items())),
        "datasets": each,
    }


def visual_tokens(packing: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Row length -> visual tokens of a row -> number of rows, over both stages."""
    out: dict[str, Counter[int]] = {}
    for statistics in packing.values():
        counts = out.setdefault(str(statistics["length"]), Counter())
        counts.update({int(k): v for k, v in statistics["visual_tokens_per_row"].items()})
    return {length: {str(k): counts[k] for k in sorted(counts)} for length, counts in out.items()}


def training_speed(steps: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Real tokens a second over all steps of both stages, padding and dummies not counted."""
    rows = [row for name in STAGES for row in steps[name]]
    tokens, taken = sum(r["real_tokens"] for r in rows), sum(r["seconds"]["total"] for r in rows)
    return {"real_tokens_per_s": tokens / taken, "real_tokens": tokens, "mfu": sum(r["mfu"] for r in rows) / len(rows)}


def all_seconds(root: Path, parts: dict[str, float], install: float | None) -> dict[str, Any]:
    """Seconds by part: of the ranks' start, what each stage took by its own log."""
    out: dict[str, Any] = {"install": install, "data": parts.get("data")}
    for name in STAGES:
        timing = root / name / "timing.json"
        out[name] = json.loads(timing.read_bytes())["seconds"] if timing.exists() else None
    out["evaluate"] = sum(
        json.loads((root / name / "evaluation" / "evaluation.json").read_bytes())["seconds"] for name in STAGES
    )
    return {**out, "ranks": parts.get("ranks"), "segment": parts.get("segment"), "total": parts.get("total")}
