"""Which files a pattern names: `*`, `?`, `[]`, `**`, braces `{a,b}`, `{000..999}`. Hidden names match only literally.

A folder is listed once per level of the pattern, from the longest fixed beginning; `**` lists all below it.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice

from configs.errors import UserError
from data_pipeline.stores.store import Stat, Store, base_name, below

MOST_NAMES = 1_000_000
"""Names that braces may stand for."""

MANY = 16
"""From so many names in one folder on, the folder is listed instead of asking for each."""

MAGIC = re.compile(r"[*?\[]")


def glob(store: Store, pattern: str) -> list[Stat]:
    """Files, each once, sorted by path; empty where wildcards match nothing.

    Raises:
        UserError: a file that braces name outright is missing, or the braces are wrong.
    """
    if not MAGIC.search(pattern) and "{" not in pattern:
        return [stat] if (stat := store.stat(pattern)) else []
    if literal := store.stat(pattern):  # a file that is really called so
        return [literal]
    names = _expand(pattern) if "{" in pattern else [pattern]
    wild = [name for name in names if MAGIC.search(name)]
    found = [stat for name in wild for stat in _matches(store, name)]
    if len(wild) < len(names):
        found.extend(_outright(store, [name for name in names if not MAGIC.search(name)], pattern))
    return sorted({stat.path: stat for stat in found}.values())


def _expand(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    try:
        names = list(islice(braceexpand(pattern, escape=False), MOST_NAMES + 1))
    except ValueError:
        raise UserError(f"{pattern}: its braces do not match: write {{a,b}} or {{000..999}}") from None
    if len(names) > MOST_NAMES:
        raise UserError(f"{pattern}: its braces name more than {MOST_NAMES:,} files: use * or several patterns")
    return names


def _outright(store: Store, names: Sequence[str], pattern: str) -> Iterable[Stat]:
    """The files of these names; all must be there."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(os.path.dirname(name), []).append(name)
    found: dict[str, Stat] = {}
    for folder, inside in folders.items():
        if len(inside) < MANY:
            found.update((name, stat) for name in inside if (stat := store.stat(name)))
            continue
        wanted = {base_name(name): name for name in inside}
        prefix = os.path.commonprefix(list(wanted))  # noqa: RUF071  (of names, not of paths)
        found.update((wanted[name], stat) for name, stat in store.list(folder, prefix) if stat and name in wanted)
    missing = next((name for name in names if name not in found), None)
    if missing is not None and missing != pattern:
        raise UserError(f"{missing} does not exist, although {pattern} names it: let the braces name what is there")
    return found.values()


def _matches(store: Store, pattern: str) -> Iterator[Stat]:
    """Files that one pattern without braces names."""
    scheme, separator, rest = pattern.partition("://") if "://" in pattern else ("", "", pattern)
    parts = rest.split("/")
    if separator and MAGIC.search(parts[0]):
        raise UserError(f"{pattern}: the bucket's name must be written out")
    fixed = next(number for number, part in enumerate(parts) if MAGIC.search(part))
    base = "/".join(parts[:fixed]) or ("/" if rest.startswith("/") else "")
    return _descend(store, scheme + separator + base, parts[fixed:])


def _descend(store: Store, folder: str, parts: Sequence[str]) -> Iterator[Stat]:
    head, *rest = parts
    if head == "**":
        start = len(below(folder, ""))
        yield from (stat for stat in store.walk(folder) if _fits(stat.path[start:].split("/"), parts))
        return
    magic = MAGIC.search(head)
    if magic is None:
        if rest:
            yield from _descend(store, below(folder, head), rest)
        elif stat := store.stat(below(folder, head)):
            yield stat
        return
    for name, found in store.list(folder, head[: magic.start()]):
        if not _fits([name], [head]):
            continue
        if rest and found is None:
            yield from _descend(store, below(folder, name), rest)
        elif not rest and found is not None:
            yield found


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a relative path, name by name, is what the pattern says. `**` is any number of folders, none hidden."""
    if not parts or not names:
        return not parts and not names
    hidden = names[0].startswith(".")
    if parts[0] != "**":
        fits = fnmatchcase(names[0], parts[0]) and (not hidden or parts[0].startswith("."))
        return fits and _fits(names[1:], parts[1:])
    if len(parts) == 1:
        return not any(name.startswith(".") for name in names)
    return _fits(names, parts[1:]) or (not hidden and _fits(names[1:], parts))
