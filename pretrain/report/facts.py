"""What went in and how it went: data with rejections, packing, curves, the freeze table, configuration and versions."""

import json
from html import escape
from pathlib import Path
from typing import Any

from data_pipeline.manifest import read_manifest
from pretrain.report.pictures import thumbnail
from pretrain.report.plots import line_chart, rows_to_scale
from pretrain.report.sections import read_json, read_lines


def data(root: Path) -> str:
    """Rows in -> kept and rejected by reason, with thumbnails."""
    out = []
    folder = root / "data"
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not (path / "manifest.json").exists():
            continue
        totals = read_manifest(str(path)).totals
        pictures = ", ".join(f"{n} with {k}" for k, n in totals["pictures_per_sample"].items())
        rejected = (
            "".join(f"<li>{escape(reason)}: {count:,}</li>" for reason, count in totals["rejected"].items())
            or "<li>none rejected</li>"
        )
        count = totals["kept"]
        shown = "".join(
            f'<img src="{thumbnail(str(path), i * count // 12, 0, 64)}" alt="" width="64" height="64" loading="lazy">'
            for i in range(min(12, count))
        )
        out.append(
            f'<article class="wide"><h3>{escape(path.name)}</h3><p><b>{totals["rows"]:,}</b> rows in, <b>{count:,}</b> kept; samples by pictures: {escape(pictures)}</p>'
            f'<ul>{rejected}</ul><div class="strip">{shown}</div></article>'
        )
    return f'<section id="data"><h2>Data</h2>{"".join(out)}</section>' if out else ""


def packing(stages: dict[str, Path]) -> str:
    """The first rows drawn to scale: each sample in a row of its own, and packed."""
    from configs.errors import UserError
    from configs.load import load_recipe
    from data_pipeline.stream.statistics import pack_statistics

    out = []
    for name, run in stages.items():
        if not (run / "config.yaml").exists():
            continue
        try:
            found = pack_statistics(load_recipe(str(run / "config.yaml")), steps=8)
        except UserError:
            continue  # the data is being built
        rows = found["rows_to_scale"]
        alone = [[tokens] for row in rows for tokens in row][: len(rows)]
        out.append(
            f"<h3>{escape(name)}</h3>"
            + rows_to_scale(
                alone,
                found["longest_sample"],
                f"padded to the longest sample ({found['longest_sample']} tokens): fill {found['padded_fill']:.1%}",
            )
            + rows_to_scale(
                rows,
                found["length"],
                f"packed into rows of {found['length']}: fill {found['fill']:.1%}, {found['samples_per_row']:.1f} samples a row",
            )
        )
    return f'<section id="packing"><h2>Padded and packed, to scale</h2>{"".join(out)}</section>' if out else ""


def curves(stages: dict[str, Path]) -> str:
    """Loss, throughput, fill, gradient norm over steps."""
    losses: dict[str, Any] = {}
    speed: dict[str, Any] = {}
    norms: dict[str, Any] = {}
    for name, run in stages.items():
        rows = read_lines(run / "metrics.jsonl")
        losses[f"{name}"] = [(r["step"], r["loss"]) for r in rows if "loss" in r]
        losses[f"{name} held-out"] = [(r["step"], r["validation"]["loss"]) for r in rows if "validation" in r]
        speed[name] = [(r["step"], r["tokens_per_s"]) for r in rows if "loss" in r]
        norms[name] = [(r["step"], r["grad_norm"]) for r in rows if "loss" in r]
    charts = (
        line_chart("loss per label token", losses)
        + line_chart("real tokens a second", speed, zero=True)
        + line_chart("gradient norm", norms, zero=True)
    )
    return f'<section id="curves"><h2>Learning</h2>{charts}</section>' if charts else ""


def freeze(stages: dict[str, Path]) -> str:
    """What trained, at what learning rate, and what was frozen."""
    body = ""
    for name, run in stages.items():
        for row in read_json(run / "freeze.json") or []:
            state = f"trained at {row['lr']:g}" if row["trainable"] else "frozen"
            body += f"<tr><td>{escape(name)}</td><th>{escape(row['module'])}</th><td>{row['parameters']:,}</td><td>{state}</td></tr>"
    return (
        f'<section id="freeze"><h2>What trained</h2><table><tr><th>stage</th><th>part</th><th>parameters</th><th></th></tr>{body}</table></section>'
        if body
        else ""
    )


def resume(root: Path) -> str:
    """The killed and resumed segment."""
    found = read_json(root / "segment" / "segment.json")
    if not found:
        return ""
    verdict = "equal, bit for bit" if found["bitwise"] else "NOT equal"
    return (
        f'<section id="resume"><h2>Killed and resumed</h2><p>From the caption checkpoint of step {found["first"]} a second run trained on; one of its ranks was '
        f"killed at step {found['killed_at']} and the run resumed. At step {found['last']} its weights and the undisturbed run's are <b>{verdict}</b> "
        f"(SHA-256 {escape(found['found'][:16])}... and {escape(found['expected'][:16])}...).</p></section>"
    )


def configuration(stages: dict[str, Path]) -> str:
    """Seed, commit, hardware, versions, and each stage's resolved recipe."""
    out = []
    for name, run in stages.items():
        versions, config = read_json(run / "versions.json"), run / "config.yaml"
        if versions:
            hardware = versions.get("hardware", {})
            packages = ", ".join(f"{k} {v}" for k, v in versions.get("versions", {}).items())
            out.append(
                f"<p>{escape(name)}: seed {versions.get('seed')}, commit {escape(str(versions.get('commit')))}, {escape(str(hardware.get('name')))} ({hardware.get('cores')} cores), {escape(packages)}</p>"
            )
        if config.exists():
            out.append(
                f"<details><summary>{escape(name)}: resolved recipe</summary><pre>{escape(config.read_text(encoding='utf-8'))}</pre></details>"
            )
    return f'<section id="configuration"><h2>Configuration</h2>{"".join(out)}</section>' if out else ""


def status(stages: dict[str, Path]) -> str:
    """Where each stage stands."""
    parts = []
    for name, run in stages.items():
        found = read_json(run / "status.json")
        if found:
            parts.append(
                f'<span class="state {escape(found["state"])}">{escape(name)}: {escape(found["state"])}, step {found["step"]} of {found["steps"]}</span>'
            )
    return f'<p class="status">{" ".join(parts)}</p>' if parts else ""


def running(stages: dict[str, Path]) -> bool:
    return any((read_json(run / "status.json") or {}).get("state") == "running" for run in stages.values())


def summary_line(root: Path) -> str:
    """The demo's numbers in one sentence, once it is over."""
    path = root / "summary.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_bytes())
    return (
        f'<p class="lead">easy-VQA test accuracy <b>{found["vqa"]["accuracy"]:.1%}</b> where text alone reaches {found["vqa"]["text_only"]:.1%}; '
        f"{found['image_swap']['pair_accuracy']:.1%} of picture pairs answered rightly; caption retrieval among 100 {found['caption']['retrieval_at_1_of_100']:.0%}; "
        f"{found['train']['real_tokens_per_s']:,.0f} real tokens a second; {found['seconds']['total']:.0f} s in all.</p>"
    )
