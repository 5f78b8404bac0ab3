"""Module patterns of `stage.train`: `projector`, `decoder.layers[20:]`, `decoder.layers[3]`; the longest match decides."""

import re
from collections.abc import Iterable

from configs.errors import UserError


def matcher(pattern: str) -> re.Pattern[str]:
    """A regular expression for a module path; `[a:b]` and `[a]` choose among numbered children.

    Raises:
        UserError: it is no module path.
    """
    found = re.fullmatch(r"([A-Za-z_][\w.]*?)(?:\[(\d*)(:?)(\d*)\])?", pattern)
    if found is None:
        raise UserError(
            f"stage.train pattern {pattern!r} is not a module path such as `projector` or `decoder.layers[20:]`"
        )
    path, low, colon, high = found.groups()
    if low is None:
        return re.compile(re.escape(path) + r"(\.|$)")
    if not colon:
        return re.compile(re.escape(path) + rf"\.{low or 0}(\.|$)")
    first, last = int(low or 0), int(high) if high else 10_000
    numbers = "|".join(str(n) for n in range(first, min(last, first + 1000)))
    return re.compile(re.escape(path) + rf"\.({numbers})(\.|$)")


def matchers(patterns: Iterable[str]) -> list[tuple[str, re.Pattern[str]]]:
    """Patterns in the order in which they are tried."""
    return sorted(((p, matcher(p)) for p in patterns), key=lambda item: (-len(item[0]), item[0]))
