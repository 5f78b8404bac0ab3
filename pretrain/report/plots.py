"""Line charts, bars and rows to scale as inline SVG: readable in light and dark, on a phone, without script."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 230, 50, 10, 10, 26
MOST_POINTS, DOTTED = 320, 24
"""Points of a line, and up to how many each has a dot of its own."""
TALL, GAP = 8, 3
"""Of a row drawn to scale."""

Points = Sequence[tuple[float, float]]


def _thin(points: Points) -> list[tuple[float, float]]:
    """Means over runs of neighbours, so that noise does not hide the line."""
    size = max(1, math.ceil(len(points) / MOST_POINTS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
        return found if 2 <= len(found) <= 7 else [low, high]
    raw = (high - low) / 4
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if m * step >= raw * 0.999)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def line_chart(title: str, series: Mapping[str, Points], zero: bool = False, log: bool = False) -> str:
    """Named series of (x, y); x are steps. Empty series and values that are no numbers are left out."""
    kept = {
        name: [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)] for name, points in series.items()
    }
    kept = {name: _thin(points) for name, points in kept.items() if points}
    if not kept:
        return ""
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    low, high = (0.0 if zero else min(ys)), max(ys)
    if high <= low:
        high = low * 2 if low > 0 else low + 1
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    scale = math.log if log else float

    def across(x: float) -> float:
        return LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (scale(high) - scale(y)) / (scale(high) - scale(low)) * (HEIGHT - BOTTOM - TOP)

    parts = []
    for value in _ticks(low, high, log):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(value):.1f}" y2="{down(value):.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 7}" y="{down(value) + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for x, anchor in ((left, "start"), (right, "end")):
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{x:,.0f}</text>')
    parts.append(f'<text x="{across((left + right) / 2):.1f}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    for number, points in enumerate(kept.values()):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="s{number % 4}" points="{path}"/>')
        if len(points) <= DOTTED:
            parts += [
                f'<circle class="s{number % 4}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.6"/>' for x, y in points
            ]
    keys = [f'<span class="key s{n % 4}">{escape(name)}</span>' for n, name in enumerate(kept)]
    last = ", ".join(f"{name} ends at {_number(points[-1][1])}" for name, points in kept.items())
    return _figure(title, "".join(parts), HEIGHT, "".join(keys), f"{title}: {last}")


def bars(title: str, values: Sequence[tuple[str, float]]) -> str:
    """Horizontal bars from zero, each with its name and value."""
    most = max((value for _, value in values), default=0.0) or 1.0
    parts = []
    for number, (name, value) in enumerate(values):
        y = number * 26
        width = max(1.0, value / most * (WIDTH - 210))
        parts.append(f'<text x="0" y="{y + 15}">{escape(name)}</text>')
        parts.append(f'<rect class="seg c{number % 4}" x="140" y="{y + 3}" width="{width:.1f}" height="16" rx="3"/>')
        parts.append(f'<text x="{148 + width:.1f}" y="{y + 15}">{value:.3g}</text>')
    said = ", ".join(f"{name} {value:.3g}" for name, value in values)
    return _figure(title, "".join(parts), 26 * len(values), "", f"{title}: {said}")


def padded_rows(batches: Sequence[Sequence[int]], length: int, title: str) -> str:
    """Each batch a block: its samples below each other, all as wide as the longest, at the scale of rows of `length`.

    Blocks stand side by side as far as they fit; what a sample does not fill of its block is waste.
    """
    parts, left, top, tallest = [], 0.0, 0, 0
    for batch in batches:
        width = max(batch) / length * WIDTH
        if left and left + width > WIDTH:
            left, top, tallest = 0.0, top + tallest + 2 * GAP, 0
        for number, tokens in enumerate(batch):
            y = top + number * (TALL + GAP)
            parts.append(_rect("waste", left, y, width))
            parts.append(_rect(f"seg c{number % 4}", left, y, tokens / length * WIDTH))
        left, tallest = left + width + 4 * GAP, max(tallest, len(batch) * (TALL + GAP))
    return _figure(title, "".join(parts), top + tallest, "", title)


def packed_rows(rows: Sequence[Sequence[int]], length: int, title: str) -> str:
    """Rows of segments, each as long as its tokens; what is left of a row is waste."""
    parts = []
    for number, segments in enumerate(rows):
        x, y = 0.0, number * (TALL + GAP)
        parts.append(_rect("waste", 0, y, WIDTH))
        for place, tokens in enumerate(segments):
            width = tokens / length * WIDTH
            parts.append(_rect(f"seg c{place % 4}", x, y, max(0.5, width - 0.8)))
            x += width
    return _figure(title, "".join(parts), len(rows) * (TALL + GAP), "", title)


def _rect(kind: str, x: float, y: float, width: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{TALL}" rx="1.5"/>'


def _figure(title: str, drawing: str, tall: float, keys: str, label: str) -> str:
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{f" <span>{keys}</span>" if keys else ""}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {tall:.0f}" role="img" aria-label="{escape(label)}">{drawing}</svg></figure>'
    )


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}"
