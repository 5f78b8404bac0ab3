"""Line charts and rows to scale as inline SVG: readable in light and dark, on a phone, without script."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 220, 52, 26


def _thin(points: Sequence[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    step = max(1, len(points) // most)
    return [*points[::step], points[-1]] if points else []


def line_chart(title: str, series: dict[str, Sequence[tuple[float, float]]], unit: str = "", zero: bool = False) -> str:
    """Named series of (x, y); x are steps. Empty series are left out."""
    kept = {name: _thin([(x, y) for x, y in points if y == y]) for name, points in series.items() if points}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    low, high = (0.0 if zero else min(ys)), max(ys)
    high = high if high > low else low + 1
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def place(x: float, y: float) -> str:
        px = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - 8)
        py = 8 + (high - y) / (high - low) * (HEIGHT - BOTTOM - 8)
        return f"{px:.1f},{py:.1f}"

    parts = []
    for number in range(5):
        value = low + (high - low) * number / 4
        y = float(place(left, value).split(",")[1])
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for x, anchor in ((left, "start"), (right, "end")):
        parts.append(f'<text x="{place(x, low).split(",")[0]}" y="{HEIGHT - 6}" text-anchor="{anchor}">{x:g}</text>')
    for number, points in enumerate(kept.values()):
        path = " ".join(place(x, y) for x, y in points)
        parts.append(f'<polyline class="s{number % 4}" points="{path}"/>')
    legend = (
        "".join(f'<span class="key s{n % 4}">{escape(name)}</span>' for n, name in enumerate(kept))
        if len(kept) > 1
        else ""
    )
    label = escape(f"{title}{f' ({unit})' if unit else ''}")
    return (
        f'<figure class="chart"><figcaption>{label} {legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg></figure>'
    )


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}"


def rows_to_scale(rows: Sequence[Sequence[int]], length: int, title: str) -> str:
    """Rows of segments, each as long as its tokens; what is left of a row is waste."""
    tall = 14
    parts = []
    for number, segments in enumerate(rows):
        x, y = 0.0, number * (tall + 4)
        parts.append(f'<rect class="waste" x="0" y="{y}" width="{WIDTH}" height="{tall}" rx="2"/>')
        for place, tokens in enumerate(segments):
            width = tokens / length * WIDTH
            parts.append(
                f'<rect class="seg c{place % 4}" x="{x:.1f}" y="{y}" width="{max(0.5, width - 0.8):.1f}" height="{tall}" rx="2"/>'
            )
            x += width
    label = escape(title)
    return (
        f'<figure class="chart"><figcaption>{label}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {len(rows) * (tall + 4)}" role="img" aria-label="{label}">{"".join(parts)}</svg></figure>'
    )
