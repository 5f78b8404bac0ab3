"""The page of a build: tally (+ statistics of the dataset) -> build.html, self-contained, for light and dark.

No script, nothing loaded from elsewhere; while the build runs, the page asks the browser to open it again.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from data_pipeline.ingest.build_plots import histogram, rate_curve, size_text, time_text
from data_pipeline.ingest.tally import Stage, Tally, share

REFRESH_SECONDS = 10
REASONS_SHOWN = 15
HISTOGRAMS = {
    "width": "Width in pixels",
    "height": "Height in pixels",
    "aspect": "Width / height",
    "picture_bytes": "Size of a picture",
    "text_chars": "Characters of text of a sample",
}


def render(tally: Tally, statistics: Mapping[str, Any] | None, now: float) -> str:
    """The whole page as text.

    Args:
        statistics: of `read_totals`; None where the dataset has none yet.
        now: seconds since 1970, shown as the page's time.
    """
    again = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if tally.state == "running" else ""
    name = escape(tally.name)
    parts = [_header(tally, now), _numbers(tally, statistics), _stages(tally), _rejected(tally, statistics)]
    parts += [_rates(tally), _histograms(statistics), _events(tally)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f'<meta name="color-scheme" content="light dark">{again}<title>{name}: build</title><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _header(tally: Tally, now: float) -> str:
    starts = f" in {tally.starts} starts" if tally.starts > 1 else ""
    problem = f'<p class="bad">{escape(tally.problem)}</p>' if tally.problem else ""
    return (
        f'<header><h1>{escape(tally.name)}</h1><p><b class="state {escape(tally.state)}">{escape(tally.state)}</b> '
        f"{time_text(tally.seconds)} of work{starts}, as of {_stamp(now)}</p>{problem}</header>"
    )


def _judge(tally: Tally) -> Stage | None:
    """The stage that says most about rows: the last of those with the most outcomes."""
    stages = [stage for stage in tally.stages.values() if stage.judged]
    return max(reversed(stages), key=lambda stage: stage.judged, default=None)


def _numbers(tally: Tally, statistics: Mapping[str, Any] | None) -> str:
    """What went in and out: of the whole dataset once it is done, else of the rows with an outcome so far."""
    cells: list[tuple[str, str]] = []
    stage = _judge(tally)
    if statistics is not None and tally.state == "done":
        rows, kept = statistics["rows"], statistics["kept"]
        cells = [("rows", f"{rows:,}"), *_outcome(kept, rows)]
        cells += [("pictures", f"{statistics['pictures']:,}"), ("of pictures", size_text(statistics["picture_bytes"]))]
        cells += [("shards", f"{statistics['shards']:,}")]
    elif stage is not None:
        cells = [("rows with an outcome", f"{stage.judged:,}"), *_outcome(stage.kept, stage.judged)]
        cells += [("read", size_text(stage.bytes))] if stage.bytes else []
    going = [stage for stage in tally.stages.values() if not stage.finished]
    if tally.state == "running" and going:
        cells += [(f"{going[-1].unit}s a second", f"{going[-1].rate:,.1f}")]
        cells += [(f"left of {going[-1].name}", time_text(going[-1].eta))] if going[-1].eta is not None else []
    items = "".join(f"<li><b>{value}</b> {escape(what)}</li>" for what, value in cells)
    return f'<ul class="numbers">{items}</ul>'


def _outcome(kept: int, rows: int) -> list[tuple[str, str]]:
    percent = f" <small>{escape(share(kept, rows))}</small>" if rows else ""
    return [("kept", f"{kept:,}{percent}"), ("rejected", f"{rows - kept:,}")]


def _stages(tally: Tally) -> str:
    if not tally.stages:
        return ""
    rows = "".join(
        f"<tr><td>{escape(stage.name)}</td>"
        f'<td><span class="bar" style="--p:{min(1.0, stage.done / stage.total) if stage.total else 1:.3f}"></span></td>'
        f"<td>{stage.done:,} of {stage.total:,} {escape(stage.unit)}s</td><td>{stage.rate:,.1f}/s</td>"
        f"<td>{time_text(stage.seconds)}</td><td>{'done' if stage.finished else 'open'}</td></tr>"
        for stage in tally.stages.values()
    )
    head = "<tr><th>stage</th><th></th><th>done</th><th>rate</th><th>time</th><th></th></tr>"
    return f'<h2>Stages</h2><div class="scroll"><table>{head}{rows}</table></div>'


def _rejected(tally: Tally, statistics: Mapping[str, Any] | None) -> str:
    """Reasons as bars, as shares of all rows."""
    stage = _judge(tally)
    if statistics is not None and tally.state == "done":
        counts, rows = dict(statistics["rejected"]), statistics["rows"]
    elif stage is not None:
        counts, rows = stage.rejected, stage.judged
    else:
        return ""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = ranked[REASONS_SHOWN:]
    if rest:
        ranked = [*ranked[:REASONS_SHOWN], (f"{len(rest)} more reasons", sum(count for _, count in rest))]
    most = max((count for _, count in ranked), default=1)
    items = "".join(
        f'<li><span>{escape(reason)}</span><span class="bar warm" style="--p:{count / most:.3f}"></span>'
        f"<span>{count:,} <small>{escape(share(count, rows))}</small></span></li>"
        for reason, count in ranked
    )
    return f'<h2>Rejected</h2><ul class="bars">{items}</ul>' if items else "<h2>Rejected</h2><p>Nothing.</p>"


def _rates(tally: Tally) -> str:
    charts = "".join(rate_curve(stage) for stage in tally.stages.values())
    return f'<h2>Rate</h2><div class="grid2">{charts}</div>' if charts else ""


def _histograms(statistics: Mapping[str, Any] | None) -> str:
    if statistics is None or not statistics["kept"]:
        return ""
    bins, counts = statistics["bins"], statistics["histograms"]
    charts = "".join(histogram(title, name, bins[name], counts[name]) for name, title in HISTOGRAMS.items())
    kinds = ", ".join(f"{count:,} {escape(kind)}" for kind, count in statistics["formats"].items())
    samples = ", ".join(f"{count:,} with {escape(n)}" for n, count in statistics["samples_by_pictures"].items())
    note = f"<p>Pictures: {kinds or 'none'}. Samples by number of pictures: {samples}. A bar is named by where it begins.</p>"
    return f'<h2>What was kept</h2>{note}<div class="grid2">{charts}</div>'


def _events(tally: Tally) -> str:
    """What was lost, retried and the like: counts by kind, and the last ones."""
    if not tally.kinds:
        return "<h2>Lost and retried</h2><p>Nothing.</p>"
    counts = ", ".join(f"{count:,} x {escape(kind)}" for kind, count in sorted(tally.kinds.items()))
    rows = "".join(
        f"<tr><td>{time_text(event.seconds)}</td><td>{escape(event.stage)}</td><td>{escape(event.kind)}</td>"
        f'<td class="details">{escape(event.details)}</td></tr>'
        for event in reversed(tally.events)
    )
    head = "<tr><th>after</th><th>stage</th><th>what</th><th></th></tr>"
    return f'<h2>Lost and retried</h2><p>{counts}</p><div class="scroll"><table>{head}{rows}</table></div>'


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


_STYLE = """
:root{--ink:#1f2530;--soft:#5b6473;--paper:#faf8f3;--card:#fffefb;--line:#e3dfd4;--a:#2760a6;--b:#b9541c;--bad:#ad2418;--good:#1b7348}
@media(prefers-color-scheme:dark){:root{--ink:#e7e4dc;--soft:#9ba4b1;--paper:#14171b;--card:#1b1f26;--line:#2d333d;--a:#70aef2;--b:#ee9c60;--bad:#ff8d7d;--good:#6ad39d}}
*{box-sizing:border-box}
body{max-width:58rem;margin:0 auto;padding:2rem 1.1rem 4rem;background:var(--paper);color:var(--ink);font:16px/1.5 ui-sans-serif,system-ui,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
h1{font:500 2.3rem/1.1 ui-serif,"Iowan Old Style",Palatino,Georgia,serif;margin:0}
h2{font:500 1.4rem/1.25 ui-serif,"Iowan Old Style",Palatino,Georgia,serif;margin:2.4rem 0 .6rem}
header p{color:var(--soft);margin:.4rem 0}
small,figcaption,th{color:var(--soft);font-weight:400}
.state{border:1px solid currentColor;border-radius:99px;padding:.05rem .7rem;margin-right:.4rem;font-weight:500}
.running{color:var(--a)}.done{color:var(--good)}.failed,header .bad{color:var(--bad)}
.numbers{list-style:none;display:flex;flex-wrap:wrap;gap:.8rem;margin:1.4rem 0 0;padding:0}
.numbers li{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:.6rem 1rem;color:var(--soft);font-size:.88rem}
.numbers b{display:block;color:var(--ink);font-weight:500;font-size:1.5rem;line-height:1.25}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.93rem}
th,td{text-align:left;padding:.3rem 1.3rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;white-space:nowrap}
.details{white-space:normal;min-width:14rem}
.bar{display:inline-block;width:9rem;height:.6rem;border-radius:4px;background:linear-gradient(90deg,var(--a) calc(var(--p)*100%),var(--line) 0)}
.bar.warm{width:auto;align-self:center;background:linear-gradient(90deg,var(--b) calc(var(--p)*100%),transparent 0)}
.bars{list-style:none;margin:0;padding:0;font-size:.93rem}
.bars li{display:grid;grid-template-columns:minmax(8rem,15rem) 1fr 9rem;gap:.8rem;padding:.1rem 0}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:.4rem 1.6rem}
figure{margin:0 0 1rem;min-width:0}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--soft);font-size:12px}
svg rect{fill:var(--a)}
.grid{stroke:var(--line)}.again{stroke:var(--b);stroke-dasharray:3 4}
polyline{fill:none;stroke:var(--a);stroke-width:1.7;stroke-linejoin:round}
.grid2 svg text{font-size:16px}
@media(max-width:34rem){svg text,.grid2 svg text{font-size:19px}.bars li{grid-template-columns:8rem 1fr 6.5rem}}
"""
