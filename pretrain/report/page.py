"""The page: sections in order, style and script inlined, written atomically."""

import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from configs.errors import UserError
from data_pipeline.storage import put
from pretrain.report import facts, origin, said, spent, swap
from pretrain.report.folder import is_ours, running, stages_of

ASSETS = Path(__file__).parent / "assets"
REFRESH_SECONDS = 15
SIZE_LIMIT = 3_000_000
"""Bytes that a page never reaches: it is opened on phones."""


def write_report(roots: Sequence[Path]) -> Path:
    """Write report.html into the first folder and return its path. Several runs share the curves and tables.

    Raises:
        UserError: a folder is neither a run nor a demo.
    """
    stages: dict[str, Path] = {}
    for root in roots:
        if not is_ours(root):
            raise UserError(
                f"{root} is neither a run nor a demo folder: give a folder made by `looksay train` or `looksay demo`"
            )
        for name, run in stages_of(root).items():
            stages[name if name not in stages else f"{root.resolve().name}/{name}"] = run
    path = roots[0] / "report.html"
    put(str(path), render(roots[0], stages, compare=len(roots) == 2).encode())
    return path


def render(root: Path, stages: dict[str, Path], compare: bool = False) -> str:
    """The whole page as text; `compare` shows how two runs' recipes differ."""
    runs = list(stages.values())
    parts: list[Callable[[], str]] = [
        lambda: origin.status(root, stages),
        lambda: origin.lead(root),
        lambda: origin.failure(root, stages),
        lambda: origin.compared(stages) if compare else "",
        *((lambda run=run: swap.choose(run)) for run in runs),
        lambda: said.over_time(stages),
        lambda: facts.packing(stages),
        lambda: facts.data(root),
        lambda: facts.curves(stages),
        lambda: facts.freeze(stages),
        lambda: spent.time_spent(stages),
        *((lambda run=run: said.mistakes(run)) for run in runs),
        *((lambda run=run: said.captions(run)) for run in runs),
        lambda: swap.test(stages),
        lambda: origin.resume(root),
        lambda: origin.configuration(stages),
    ]
    body = "\n".join(text for text in map(_part, parts) if text)
    live = running(root, stages)
    if "<section" not in body:
        body += f"<p>{'Nothing to show yet: the data are being made.' if live else 'Nothing is here yet.'}</p>"
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    title = escape(root.resolve().name)
    now = time.time()
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    again = f'<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}"></noscript>' if live else ""
    data = f' data-refresh="{REFRESH_SECONDS}" data-written="{now:.0f}"' if live else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{again}<title>{title}: look, then say</title><style>{style}</style></head>'
        f'<body{data}><header><h1>look, then say</h1><p class="when">{title}, written {written}</p></header><main>{body}</main>'
        f"<script>{script}</script></body></html>"
    )


def _part(make: Callable[[], str]) -> str:
    """A part that cannot be shown (a dataset was moved, a file is being written) says so; the others are shown."""
    try:
        return make()
    except (UserError, OSError, ValueError, KeyError, IndexError) as error:
        return (
            f'<p class="missing">A part of this page cannot be shown: {escape(str(error) or type(error).__name__)}</p>'
        )
