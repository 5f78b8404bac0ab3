"""Plots of a build's page as inline SVG, and numbers as short texts: a rate curve, a histogram."""

import math
from collections.abc import Sequence
from html import escape

from data_pipeline.ingest.tally import Stage

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 170, 52, 12, 24
ASPECTS = {1 / 4: "1:4", 1 / 3: "1:3", 1 / 2: "1:2", 2 / 3: "2:3", 3 / 4: "3:4", 4 / 3: "4:3", 3 / 2: "3:2"}


def rate_curve(stage: Stage) -> str:
    """Units a second over seconds of work; a dashed line where the build started again."""
    runs = list(stage.curve.rates())
    points = [point for run in runs for point in run]
    if len(points) < 2:
        return ""
    first, last = stage.curve.points[0][0], stage.curve.points[-1][0]
    most = max(rate for _, rate in points) or 1.0

    def across(seconds: float) -> float:
        return LEFT + (seconds - first) / (last - first or 1.0) * (WIDTH - LEFT - 8)

    def down(rate: float) -> float:
        return TOP + (1 - rate / most) * (HEIGHT - TOP - BOTTOM)

    marks = []
    for value in _ticks(most):
        y = down(value)
        marks.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for seconds in [point[0] for point in stage.curve.points if point[2]][1:]:
        x = across(seconds)
        marks.append(f'<line class="again" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for seconds, anchor in ((first, "start"), (last, "end")):
        marks.append(
            f'<text x="{across(seconds):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{time_text(seconds)}</text>'
        )
    for run in runs:
        if run:
            path = " ".join(f"{across(seconds):.1f},{down(rate):.1f}" for seconds, rate in run)
            marks.append(f'<polyline points="{path}"/>')
    title = f"{stage.name}: {stage.unit}s a second"
    return _figure(title, "".join(marks), HEIGHT, f"{title}, at most {_short(most)}")


def histogram(title: str, name: str, edges: Sequence[float], counts: Sequence[int]) -> str:
    """Bars from the first filled bin to the last, each named by its lower edge."""
    filled = [place for place, count in enumerate(counts) if count]
    if not filled:
        return ""
    places = range(filled[0], filled[-1] + 1)
    most, wide = max(counts), min(90.0, (WIDTH - 20) / len(places))
    every = math.ceil(len(places) / 11)
    marks = []
    for number, place in enumerate(places):
        tall = counts[place] / most * (HEIGHT - TOP - BOTTOM)
        tall = max(tall, 1.0) if counts[place] else 0.0
        x, label = 10 + number * wide, _edge(name, edges[place])
        marks.append(
            f'<rect x="{x + 1:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{wide - 2:.1f}" height="{tall:.1f}" rx="2">'
            f"<title>from {label}: {counts[place]:,}</title></rect>"
        )
        if number % every == 0:
            marks.append(f'<text x="{x + 2:.1f}" y="{HEIGHT - 7}">{label}</text>')
    said = f"{title}: most often from {_edge(name, edges[list(counts).index(most)])}"
    return _figure(title, "".join(marks), HEIGHT, said)


def size_text(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1024:
            break
        count, unit = count / 1024, "TB"
    return f"{count:.3g} {unit}"


def time_text(seconds: float) -> str:
    """`58 s`, `3:20 min`, `7:05 h`, `2 d 3 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 86400:
        return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _figure(title: str, drawing: str, tall: float, said: str) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {tall:.0f}" role="img" '
        f'aria-label="{escape(said)}">{drawing}</svg></figure>'
    )


def _ticks(most: float) -> list[float]:
    """Round values from 0 to at most `most`, up to five of them."""
    step = 10.0 ** math.floor(math.log10(most / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if most / (factor * step) <= 4.5)
    return [number * step for number in range(int(most / step + 1e-9) + 1)]


def _edge(name: str, edge: float) -> str:
    if name == "aspect":
        return ASPECTS.get(edge, f"{edge:g}")
    return size_text(edge) if name == "picture_bytes" else f"{edge:,.0f}"
