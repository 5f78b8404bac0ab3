"""The page: sections in order, style and script inlined, written atomically."""

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from configs.errors import UserError
from data_pipeline.storage import put
from pretrain.report import facts, sections

ASSETS = Path(__file__).parent / "assets"
REFRESH_SECONDS = 20


def stages_of(root: Path) -> dict[str, Path]:
    """Runs of a demo folder (caption, sft, in order), or the folder itself where it is a run."""
    found = {name: root / name for name in ("caption", "sft") if (root / name / "config.yaml").exists()}
    if not found and (root / "config.yaml").exists():
        found = {root.name: root}
    return found


def write_report(roots: Sequence[Path]) -> Path:
    """Write report.html into the first folder and return its path. Several runs share the curves and tables.

    Raises:
        UserError: a folder is neither a run nor a demo.
    """
    stages: dict[str, Path] = {}
    for root in roots:
        found = stages_of(root)
        if not found and not (root / "data").is_dir():
            raise UserError(
                f"{root} is neither a run nor a demo folder: give a folder made by `looksay train` or `looksay demo`"
            )
        for name, run in found.items():
            stages[name if name not in stages else f"{root.name}/{name}"] = run
    path = roots[0] / "report.html"
    put(str(path), render(roots[0], stages).encode())
    return path


def render(root: Path, stages: dict[str, Path]) -> str:
    """The whole page as text."""
    runs = list(stages.values())
    body = [
        facts.status(stages),
        facts.summary_line(root),
        *(sections.swap(run) for run in runs),
        sections.over_time(root, stages),
        facts.packing(stages),
        facts.data(root),
        facts.curves(stages),
        facts.freeze(stages),
        *(sections.mistakes(run) for run in runs),
        *(sections.captions(run) for run in runs),
        sections.scores(stages),
        facts.resume(root),
        facts.configuration(stages),
    ]
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if facts.running(stages) else ""
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    title = escape(f"looksay: {root.name}")
    written = time.strftime("%Y-%m-%d %H:%M:%S")
    content = "\n".join(part for part in body if part) or "<p>Nothing is here yet.</p>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{refresh}<title>{title}</title><style>{style}</style></head>'
        f'<body><header><h1>look, then say</h1><p class="when">{title}, written {written}</p></header><main>{content}</main>'
        f"<script>{script}</script></body></html>"
    )
