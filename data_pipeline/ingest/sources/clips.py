"""Frames out of a folder of them: which ones stand for the video."""

import re
from collections.abc import Iterable

_NUMBERS = re.compile("([0-9]+)")


def frames_of(names: Iterable[str], most: int) -> list[str]:
    """At most `most` of the names, evenly chosen, in the order of the numbers in them (frame2 before frame10).

    The middle one of each of `most` equal parts (Wang et al. 2016, "Temporal Segment Networks"); all where there are
    no more.
    """
    ordered = sorted(names, key=_place)
    count = min(most, len(ordered))
    return [ordered[(2 * part + 1) * len(ordered) // (2 * count)] for part in range(count)]


def _place(name: str) -> tuple[list[tuple[int, str]], str]:
    """Texts and numbers by turns, and the name itself for names that differ in leading zeros only."""
    parts = _NUMBERS.split(name)
    return [(int(part), "") if odd % 2 else (0, part) for odd, part in enumerate(parts)], name
