"""What one micro-step on one rank carries, as counts: plain numbers that a plan, a batch or an assumption gives."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

BUCKET_WASTE, SHORT = 1.3, 512
"""Segments of like length share an attention call, up to this ratio; from this mean length on each has its own
(pretrain/model/attention.py)."""


@dataclass(frozen=True)
class Stretch:
    """Positions that operations run over.

    `gathered`: positions of attention calls, their padding with them. `pairs`: query-key pairs that these calls compute,
    `useful`: pairs inside segments. `calls`: attention calls.
    """

    positions: float = 0
    real: float = 0
    gathered: float = 0
    pairs: float = 0
    useful: float = 0
    calls: float = 0
    padded: bool = True
    """Segments are gathered into padded calls (else each is a call of its own on a view)."""

    def scaled(self, factor: float) -> "Stretch":
        return _stretch(lambda f: getattr(self, f) * factor, self.padded)


NUMBERS = ("positions", "real", "gathered", "pairs", "useful", "calls")


def _stretch(number: Callable[[str], float], padded: bool) -> Stretch:
    """A stretch of `number(field)`."""
    return Stretch(**{name: number(name) for name in NUMBERS}, padded=padded)


@dataclass(frozen=True)
class Load:
    """One micro-step on one rank."""

    text: Stretch
    patches: Stretch = Stretch()
    views: float = 0
    """Tokens that the encoder makes."""
    visual: float = 0
    """Positions of rows that show them."""
    newlines: float = 0
    labels: float = 0
    pictures: float = 0
    samples: float = 0
    rows: float = 1
    ordered: bool = False
    """Some of the encoder's tokens are left out (padding of tiles)."""

    def scaled(self, factor: float) -> "Load":
        """`factor` times as much of everything: another number of rows."""
        numbers = ("views", "visual", "newlines", "labels", "pictures", "samples", "rows")
        return replace(
            self,
            text=self.text.scaled(factor),
            patches=self.patches.scaled(factor),
            **{name: getattr(self, name) * factor for name in numbers},
        )

    def positions(self, stream: str) -> float:
        """Positions that a module's linears run over. Without pictures a dummy runs, and one label at least."""
        if stream == "text":
            return self.text.positions
        if stream == "patches":
            return self.patches.positions
        if stream == "views":
            return max(1.0, self.views)
        return self.newlines + 1 if stream == "newlines" else max(1.0, self.labels)

    def stretch(self, stream: str) -> Stretch:
        """The stretch of a stream with attention."""
        return self.text if stream == "text" else self.patches


def stretch_of(lengths: Sequence[int], positions: float, causal: bool) -> Stretch:
    """The stretch of segments of these lengths among `positions` positions, grouped into calls as the model does."""
    ordered = sorted(int(n) for n in lengths if n > 0)
    real = sum(ordered)
    useful = sum(n * (n + 1) / 2 for n in ordered) if causal else float(sum(n * n for n in ordered))
    padded = not ordered or real / len(ordered) < SHORT
    groups = _groups(ordered, causal) if padded else [[n] for n in ordered]
    gathered = sum(group[-1] * len(group) for group in groups)
    longest = [(group[-1], len(group)) for group in groups]
    pairs = sum((m * (m + 1) / 2 if causal else m * m) * count for m, count in longest)
    return Stretch(positions, real, gathered, pairs, useful, len(groups), padded)


def _groups(ordered: list[int], causal: bool) -> list[list[int]]:
    """Segments that share a call: within a ratio where a causal mask hides padding, else of one length."""
    groups: list[list[int]] = []
    for length in ordered:
        if groups:
            first = groups[-1][0]
            if length <= max(first * BUCKET_WASTE, 8) if causal else length == first:
                groups[-1].append(length)
                continue
        groups.append([length])
    return groups


def mean_load(loads: Iterable[Load]) -> Load:
    """The average of loads: what a step costs is nearly linear in them."""
    held = list(loads)
    share = 1 / len(held)
    parts = [load.scaled(share) for load in held]

    def total(values: Sequence[Stretch]) -> Stretch:
        return _stretch(lambda f: sum(getattr(v, f) for v in values), values[0].padded)

    numbers = ("views", "visual", "newlines", "labels", "pictures", "samples", "rows")
    return Load(
        total([p.text for p in parts]),
        total([p.patches for p in parts]),
        **{name: sum(getattr(p, name) for p in parts) for name in numbers},
        ordered=any(p.ordered for p in parts),
    )


@dataclass(frozen=True)
class Rows:
    """Rows of a plan (or an assumption) as loads of one row each.

    `features`: for each row in plan order (text pairs, patches, patch pairs, views, labels). `source` says where from.
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

        def stretch(a: Stretch, b: Stretch) -> Stretch:
            return _stretch(lambda f: more(getattr(a, f), getattr(b, f)), a.padded)

        numbers = ("views", "visual", "newlines", "labels", "pictures", "samples")
        return Load(
            stretch(mean.text, high.text),
            stretch(mean.patches, high.patches),
            **{name: more(getattr(mean, name), getattr(high, name)) for name in numbers},
            rows=rows,
            ordered=high.ordered,
        )


def features_of(load: Load) -> tuple[float, ...]:
    """What differs from row to row in time."""
    return (load.text.pairs, load.patches.positions, load.patches.pairs, load.views, load.labels)


def rows_of(loads: Sequence[Load], source: str) -> Rows:
    """Loads of single rows, in plan order."""
    heaviest = Load(
        _highest([load.text for load in loads]),
        _highest([load.patches for load in loads]),
        **{
            name: max(getattr(load, name) for load in loads)
            for name in ("views", "visual", "newlines", "labels", "pictures", "samples", "rows")
        },
        ordered=any(load.ordered for load in loads),
    )
    return Rows(mean_load(loads), heaviest, tuple(features_of(load) for load in loads), source)


def _highest(stretches: Sequence[Stretch]) -> Stretch:
    return _stretch(lambda f: max(getattr(s, f) for s in stretches), stretches[0].padded)
