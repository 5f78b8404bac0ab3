"""One row of a table, one line of JSON or one sidecar -> a record. What is wrong with it is kept, not raised.

- A *pair* is a picture and a text. A null where its picture belongs rejects it; an empty list of pictures, or a row
  that has no such column at all, is a sample of text only.
- A *conversation* without a picture is one of text only as long as no `<image>` mark asks for one. Pictures that no
  mark asks for stand before the first user turn.
- Of a list of captions the first counts. A system turn goes in front of the first user turn.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from configs.ingest import TableSource
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.sources.columns import KEPT, Columns
from data_pipeline.ingest.sources.record_images import HERE, Root, clean, references
from data_pipeline.sample import IMAGE_MARK, Message, Reject

MOST_KEPT_CHARS = 4096
"""Longer texts are no provenance, unless the recipe names their column."""
_USER, _ASSISTANT = ("user", "human"), ("assistant", "gpt")


class BadRow(ValueError):
    """A row that is not what it should be; `reason` is a finer one than the usual one of tables."""

    def __init__(self, detail: str, reason: str = ""):
        super().__init__(detail)
        self.reason = reason


class Rows:
    """Makes records of a table's rows.

    Args:
        bad: the reason of a row that is not what it should be, for example `bad_json`.
    """

    def __init__(self, source: TableSource, root: Root, bad: str):
        self.source, self.root, self.bad = source, root, bad
        self.kept = None if source.keep_columns is None else frozenset(source.keep_columns)

    def record(
        self,
        row: Mapping[str, Any],
        columns: Columns,
        place: Mapping[str, Any],
        cell: Callable[[int], ImageRef] | None = None,
        extra: Collection[str] | None = None,
    ) -> Record:
        """
        Args:
            place: where the row stands, for provenance.
            cell: reference of bytes that lie in the table (see `references`).
            extra: names of `Record.columns`; None: every single value of the row.
        """
        try:
            beside = singles(row) if extra is None else {name: plain(row.get(name)) for name in extra}
            record = Record(provenance={**kept_of(row, self.kept), **place}, columns=beside)
            wrong = next((name for name, value in self.source.where.items() if _said(row.get(name)) != value), None)
            if wrong is not None:
                return replace(record, problem=Reject("filter", "where", f"{wrong}={_said(row.get(wrong))[:200]}"))
            return self._filled(record, row, columns, cell)
        except (BadRow, RecursionError) as error:
            return Record(provenance=dict(place), problem=problem_of(error, self.bad))

    def _filled(
        self, record: Record, row: Mapping[str, Any], columns: Columns, cell: Callable[[int], ImageRef] | None
    ) -> Record:
        images: tuple[ImageRef, ...] | None = ()
        if columns.image is not None and columns.image in row:
            found = references(row[columns.image], self.root, cell)
            if isinstance(found, Reject):
                return replace(record, problem=found)
            images = found
        if columns.kind == "pairs":
            if images is None:
                return replace(record, problem=Reject("source", "no_image", f"{columns.image} is empty"))
            return replace(record, images=images, text=text_of(row.get(columns.text or "")))
        if columns.kind == "conversations":
            messages, rejected = messages_of(row.get(columns.messages or "")), None
        else:
            messages, rejected = _preference(row, columns)
        return talk(record, images or (), messages, rejected)


def kept_of(row: Mapping[str, Any], names: Collection[str] | None) -> dict[str, Any]:
    """What of a row is provenance: the columns `names`, or single values of the usual names."""
    if names is not None:
        kept = {name: row[name] for name in row if name in names}
        return {name: plain(value) for name, value in kept.items() if not isinstance(value, bytes)}
    usual = ((name, row[name]) for name in row if name.lower() in KEPT)
    return {
        name: plain(value)
        for name, value in usual
        if _is_single(value) and not (isinstance(value, str) and len(value) > MOST_KEPT_CHARS)
    }


def problem_of(error: BadRow | RecursionError, bad: str) -> Reject:
    if isinstance(error, RecursionError):
        return Reject("source", bad, "nested too deeply")
    return Reject("source", bad if bad == "bad_json" else error.reason or bad, str(error)[:300])


def text_of(value: Any) -> str | None:
    """A caption; of a list the first."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is not None and not isinstance(value, str):
        raise BadRow(f"the text is {type(value).__name__}, not text", "text_not_string")
    return None if value is None else clean(value)


def talk(
    record: Record, images: tuple[ImageRef, ...], messages: tuple[Message, ...], rejected: str | None = None
) -> Record:
    """The record with these turns, each picture at a mark."""
    marks = sum(message.content.count(IMAGE_MARK) for message in messages)
    if marks and not images:
        return replace(record, problem=Reject("source", "no_image", f"{marks} marks and no picture"))
    if images and not marks:
        turn = next((n for n, message in enumerate(messages) if message.role == "user"), None)
        if turn is not None:
            first = Message("user", IMAGE_MARK * len(images) + messages[turn].content)
            messages = (*messages[:turn], first, *messages[turn + 1 :])
    return replace(record, images=images, messages=messages, rejected=rejected)


def messages_of(value: Any) -> tuple[Message, ...]:
    """Turns of [{role, content}] or [{from, value}]. A role that is neither user nor assistant stays as it is."""
    if not isinstance(value, list | tuple):
        raise BadRow(f"the messages are {type(value).__name__}, not a list")
    turns = [_turn(item) for item in value]
    system = "\n".join(content for role, content in turns if role == "system")
    first = next((n for n, (role, _) in enumerate(turns) if role == "user"), None)
    if first is not None:
        turns[first] = ("user", f"{system}\n{turns[first][1]}" if system else turns[first][1])
        turns = [turn for turn in turns if turn[0] != "system"]
    return tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]


def _turn(item: Any) -> tuple[str, str]:
    if not isinstance(item, dict):
        raise BadRow(f"a message is {type(item).__name__}, not role and content")
    role = item.get("role") or item.get("from")
    content = item.get("content") if item.get("content") is not None else item.get("value")
    if isinstance(content, list | tuple):
        content = "".join(_part(part) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise BadRow("a message has no role and content that are text")
    role = "user" if role in _USER else "assistant" if role in _ASSISTANT else role
    return role, clean(content)


def _part(part: Any) -> str:
    """One of [{"type": "image"}, {"type": "text", "text": ...}]."""
    kind = part.get("type") if isinstance(part, dict) else None
    said = part if isinstance(part, str) else part.get("text") if kind == "text" else None
    if kind in ("image", "image_url"):
        return IMAGE_MARK
    if not isinstance(said, str):
        raise BadRow(f"a part of a message is {str(kind)[:40]}, not text or image")
    return said


def _preference(row: Mapping[str, Any], columns: Columns) -> tuple[tuple[Message, ...], str]:
    """Turns up to the chosen answer, and the other answer."""
    chosen, rejected = row.get(columns.chosen), row.get(columns.rejected)
    asked = row.get(columns.question or "")
    question = messages_of(asked) if isinstance(asked, list) else (Message("user", text_of(asked) or ""),)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if not question[0].content.strip():
            raise BadRow("the question is empty")
        return (*question, Message("assistant", clean(chosen))), clean(rejected)
    turns, others = messages_of(chosen), messages_of(rejected)
    if not turns or not others or turns[-1].role != "assistant" or others[-1].role != "assistant":
        raise BadRow("chosen and rejected do not end with an answer")
    if turns[0].role == "assistant":
        turns = (*question, *turns)
    return turns, others[-1].content


def singles(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row that filters may ask for: no lists, no bytes."""
    return {clean(str(name)): plain(value) for name, value in row.items() if _is_single(value)}


def _is_single(value: Any) -> bool:
    return value is not HERE and not isinstance(value, list | tuple | dict | bytes)


def _said(value: Any) -> str:
    """A value as `where` of a recipe writes it."""
    return clean(str(value))


def plain(value: Any) -> Any:
    """A value as JSON has it: dates as text, NaN and bytes as null."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return None if not value.is_finite() else int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes) or value is HERE:
        return None
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {clean(str(name)): plain(item) for name, item in value.items()}
    return clean(str(value))


def parse_object(data: bytes) -> dict[str, Any]:
    """One JSON object. Raises BadRow."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise BadRow("nested too deeply") from None
    except ValueError as error:
        raise BadRow(str(error)) from None
    if not isinstance(value, dict):
        raise BadRow(f"a row is {type(value).__name__}, not an object")
    return value
