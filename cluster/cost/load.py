"""What one micro-step on one rank carries, as counts: plain numbers that a plan, a batch or an assumption gives."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.cost.ops import Operation, Stream


@dataclass(frozen=True)
class Stretch:
    """Positions that operations run over.

    `gathered`: positions of attention calls, their padding with them. `pairs`: query-key pairs that these calls compute,
    `useful`: pairs inside segments. `calls`: attention calls. `keys`: positions of their keys, `masks`: elements of their masks.
    """

    positions: float = 0
    real: float = 0
    gathered: float = 0
    pairs: float = 0
    useful: float = 0
    calls: float = 0
    keys: float = 0
    masks: float = 0
    padded: bool = True
    """Segments are gathered into padded calls (else each is a call of its own on a view)."""

    def scaled(self, factor: float) -> "Stretch":
        return stretch_with(lambda f: getattr(self, f) * factor, self.padded)


PLAIN = ("positions", "real", "gathered", "pairs", "useful", "calls", "keys", "masks")


def stretch_with(number: Callable[[str], float], padded: bool) -> Stretch:
    """A stretch of `number(field)`."""
    return Stretch(**{name: number(name) for name in PLAIN}, padded=padded)


@dataclass(frozen=True)
class Load:
    """One micro-step on one rank. What a dummy picture costs (pretrain/model/vlm.py) is in it where there is no other."""

    text: Stretch
    patches: Stretch = Stretch()
    """The encoder's sequence: patches, and a class token of each view."""
    windows: Stretch = Stretch()
    """The same cut into windows, where the encoder has some."""
    cells: float = 0
    """Patches alone."""
    outputs: float = 0
    """Tokens that the encoder makes: merged cells, and class tokens that are kept."""
    views: float = 0
    """What the encoder sees at once: whole pictures or tiles."""
    visual: float = 0
    """Positions of rows that show them."""
    inner: float = 0
    """Those of them that a visual expert serves."""
    newlines: float = 0
    labels: float = 0
    pictures: float = 0
    samples: float = 0
    rows: float = 1
    ordered: bool = False
    """Some of the encoder's tokens are left out (padding of tiles)."""
    resized: bool = False
    """Views have another grid than the encoder's positions."""

    def scaled(self, factor: float) -> "Load":
        """`factor` times as much of everything: another number of rows."""
        return load_with(lambda load, f: getattr(load, f) * factor, lambda f: getattr(self, f).scaled(factor), self)

    def positions(self, stream: Stream) -> float:
        """Positions of a stream. Without pictures a dummy runs, and one label at least."""
        if stream == "text":
            return self.text.positions
        if stream == "patches":
            return self.patches.positions
        if stream == "cells":
            return self.cells
        if stream == "outputs":
            return max(1.0, self.outputs)
        if stream == "views":
            return max(1.0, self.views)
        if stream in ("inner", "outer"):
            return self.inner if stream == "inner" else self.text.positions - self.inner
        if stream == "newlines":
            return self.newlines + 1
        return 1.0 if stream == "once" else max(1.0, self.labels)

    def over(self, op: Operation, stream: Stream) -> float:
        """Positions that an operation of a module of `stream` runs over."""
        return self.positions(op.on or stream) * op.times + (op.beside and op.beside * self.positions("views"))

    def stretch(self, stream: Stream, windows: bool = False) -> Stretch:
        """The stretch of a stream with attention."""
        return self.text if stream == "text" else self.windows if windows else self.patches

    def useful(self, stream: Stream) -> float:
        """Positions of a stream that stand for real text and pictures."""
        if stream == "text":
            return self.text.real
        if stream == "outer":
            return self.text.real - self.inner
        if stream == "inner" or stream == "labels" or stream == "newlines":
            return float(getattr(self, stream))
        if not self.pictures and not self.visual:
            return 0.0
        if stream == "outputs" and self.ordered:
            return self.visual
        return 1.0 if stream == "once" else self.patches.real if stream == "patches" else float(getattr(self, stream))


NUMBERS = ("cells", "outputs", "views", "visual", "inner", "newlines", "labels", "pictures", "samples", "rows")
STRETCHES = ("text", "patches", "windows")


def load_with(number: Callable[[Load, str], float], stretch: Callable[[str], Stretch], like: Load) -> Load:
    """A load of `number(like, field)` and `stretch(field)`; else as `like`."""
    numbers = {name: number(like, name) for name in NUMBERS}
    return replace(like, **numbers, **{name: stretch(name) for name in STRETCHES})  # type: ignore[arg-type]


def mean_load(loads: Iterable[Load]) -> Load:
    """The average of loads: what a step costs is nearly linear in them."""
    held = list(loads)
    share = 1 / len(held)

    def stretch(name: str) -> Stretch:
        parts: list[Stretch] = [getattr(load, name) for load in held]
        return stretch_with(lambda f: sum(getattr(p, f) for p in parts) * share, parts[0].padded)

    return _alike(held, load_with(lambda _, f: sum(getattr(p, f) for p in held) * share, stretch, held[0]))


def _alike(loads: Sequence[Load], made: Load) -> Load:
    return replace(made, ordered=any(x.ordered for x in loads), resized=any(x.resized for x in loads))


@dataclass(frozen=True)
class Rows:
    """Rows of a plan (or an assumption) as loads of one row each.

    `features`: for each row in plan order (text pairs, patches, patch pairs, outputs, labels). `source` says where from.
    """

    mean: Load
    heaviest: Load
    features: tuple[tuple[float, ...], ...]
    source: str

    def micro(self, rows: int) -> Load:
        """The average micro-step of `rows` rows."""
        return self.mean.scaled(rows)

    def heavy(self, rows: int) -> Load:
        """A micro-step near the heaviest: the excess of rows that meet by chance adds up like a root."""
        if rows == 1:
            return self.heaviest
        mean, high, root = self.mean, self.heaviest, rows**0.5

        def more(a: float, b: float) -> float:
            return a * rows + max(0.0, b - a) * root

        def stretch(name: str) -> Stretch:
            a, b = getattr(mean, name), getattr(high, name)
            return stretch_with(lambda f: more(getattr(a, f), getattr(b, f)), a.padded)

        made = load_with(lambda _, f: more(getattr(mean, f), getattr(high, f)), stretch, high)
        return replace(made, rows=rows)


def features_of(load: Load) -> tuple[float, ...]:
    """What differs from row to row in time."""
    return (load.text.pairs, load.patches.positions, load.patches.pairs, load.outputs, load.labels)


def rows_of(loads: Sequence[Load], source: str) -> Rows:
    """Loads of single rows, in plan order."""

    def highest(name: str) -> Stretch:
        parts: list[Stretch] = [getattr(load, name) for load in loads]
        return stretch_with(lambda f: max(getattr(p, f) for p in parts), parts[0].padded)

    heaviest = load_with(lambda _, f: max(getattr(load, f) for load in loads), highest, loads[0])
    return Rows(mean_load(loads), _alike(loads, heaviest), tuple(features_of(load) for load in loads), source)
