"""Which column of a table is what: names that the recipe gives, else the usual ones, else a sentence."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from configs.errors import UserError
from configs.ingest import TableSource
from configs.listing import nearest

IMAGE = ("image", "images", "url", "URL", "image_url", "image_path", "jpg", "png")
TEXT = ("text", "caption", "TEXT", "captions", "alt_text", "txt")
MESSAGES = ("messages", "conversations")
QUESTION = ("question", "prompt")
KEPT = frozenset(
    [
        "id",
        "key",
        "label",
        "hexcode",
        "url",
        "image_url",
        "image_path",
        "file_name",
        "image_id",
        "question_id",
        "source",
        "license",
    ]
)
"""Columns that are kept as provenance where the recipe names none, in any case of letters."""

_PICTURE_LIKE = re.compile(r"(?i)im(g|age)|pic|photo|url|link|path|file|jpe?g|png")


@dataclass(frozen=True)
class Columns:
    """Column of each part; None: the rows have no such part."""

    kind: Literal["pairs", "conversations", "preference"]
    image: str | None
    text: str | None
    messages: str | None
    question: str | None
    chosen: str
    rejected: str


def choose(source: TableSource, names: Collection[str]) -> Columns:
    """What the columns `names` are. A named one that is not there is None: `require` says so."""

    def pick(named: str | None, usual: Iterable[str]) -> str | None:
        if named is not None:
            return named if named in names else None
        exact = next((name for name in usual if name in names), None)
        if exact is not None:
            return exact
        lower = {name.lower(): name for name in reversed(list(names))}
        return next((lower[name.lower()] for name in usual if name.lower() in lower), None)

    messages = pick(source.messages_column, MESSAGES)
    kind = source.rows
    if kind == "auto":
        both = source.chosen_column in names and source.rejected_column in names
        kind = "preference" if both else "conversations" if messages else "pairs"
    return Columns(
        kind=kind,
        image=pick(source.image_column, IMAGE),
        text=pick(source.text_column, TEXT),
        messages=messages,
        question=pick(source.question_column if source.question_column in names else None, QUESTION),
        chosen=source.chosen_column,
        rejected=source.rejected_column,
    )


def require(source: TableSource, columns: Columns, names: Collection[str], binary: Collection[str], path: str) -> None:
    """Refuse a table without the columns that its rows need.

    Args:
        names: all columns of the table.
        binary: those that may hold pictures, whatever their names.

    Raises:
        UserError: a named column is missing, or none of the usual names is there.
    """
    named = [source.image_column, source.text_column, source.messages_column, *source.where]
    if columns.kind == "preference":
        named += [columns.chosen, columns.rejected]
    for name in [*named, *(source.keep_columns or ())]:
        if name is not None and name not in names:
            raise missing(path, name, names)
    if columns.kind == "pairs" and columns.text is None:
        raise UserError(f"{path} has no text column that I know: name it with text_column; {_listed(names)}")
    if columns.kind == "conversations" and columns.messages is None:
        raise UserError(f"{path} has no column of messages: name it with messages_column; {_listed(names)}")
    if columns.image is None and columns.kind != "conversations":
        like = [name for name in names if name != columns.text and (name in binary or _PICTURE_LIKE.search(name))]
        if like:
            raise UserError(
                f"{path} has no image column that I know, and {like[0]!r} may be one: "
                f"name it with image_column; {_listed(names)}"
            )


def missing(path: str, name: str, names: Collection[str]) -> UserError:
    hint = nearest(name, names) if names else ""
    return UserError(f"{path} has no column {name!r}: {_listed(names)}" + (f"; {hint}" if "mean" in hint else ""))


def _listed(names: Collection[str]) -> str:
    shown = [str(name)[:60] for name in list(names)[:40]]
    return f"it has {shown}" + (f" and {len(names) - 40} more" if len(names) > 40 else "")
