"""Sources: anything -> records. A record is one input row: where its pictures are, and its text.

Every source is listed as a sequence of small records (references, not bytes), so that units of work can be cut by
position; the bytes are read inside the worker.
"""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.ingest import EasyVqaSource, FolderSource, JsonlSource, ParquetSource
from data_pipeline.sample import IMAGE_MARK, Message
from data_pipeline.storage import exists, read_bytes

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
EMOJI = "package:emoji"


@dataclass(frozen=True)
class ImageRef:
    """Where a picture's bytes are: a file, or (file, row) of a parquet column; `canvas` is what it is fitted on."""

    path: str
    row: int = -1
    column: str = ""
    canvas: tuple[int, int] | None = None


@dataclass(frozen=True)
class Record:
    """One input row. `problem` marks a row that the source itself could not read."""

    images: tuple[ImageRef, ...]
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def list_records(source: Any) -> list[Record]:
    """All records of a source, in its order.

    Raises:
        UserError: the source is missing, empty or unreadable as a whole.
    """
    records = list(_READERS[type(source)](source))
    if not records:
        raise UserError(f"the source {describe(source)} has no rows: check its path and filters")
    return records


def describe(source: Any) -> str:
    return getattr(source, "path", None) or f"{source.type}/{source.split}"


def _folder(source: FolderSource) -> Iterator[Record]:
    if not os.path.isdir(source.path):
        raise UserError(f"source.path {source.path} is not a folder: give a folder of pictures with sidecar texts")
    for path in sorted(p for p in Path(source.path).rglob("*") if p.suffix.lower() in PICTURE_ENDINGS):
        name = str(path.relative_to(source.path))
        image = (ImageRef(str(path)),)
        text, talk = path.with_suffix(".txt"), path.with_suffix(".json")
        provenance = {"file": name}
        try:
            if talk.exists():
                record = _from_json(talk.read_bytes(), image, provenance)
            elif text.exists():
                caption = text.read_text(encoding="utf-8-sig", errors="replace").strip()
                record = Record(image, text=caption, provenance=provenance)
            else:
                record = Record(image, provenance=provenance, problem="no_sidecar")
        except OSError:
            record = Record(image, provenance=provenance, problem="unreadable_sidecar")
        yield record


def _jsonl(source: JsonlSource) -> Iterator[Record]:
    if not exists(source.path):
        raise UserError(f"source.path {source.path} does not exist: give a file with one JSON object a line")
    base = os.path.dirname(source.path)
    for number, line in enumerate(read_bytes(source.path).splitlines()):
        if line.strip():
            yield _from_json(line, None, {"line": number + 1}, base)


def _from_json(line: bytes, images: tuple[ImageRef, ...] | None, provenance: dict[str, Any], base: str = "") -> Record:
    """A record out of {"image" | "images", "text" | "messages"}; what is wrong with it is kept, not raised."""
    try:
        data = json.loads(line)
        if images is None:
            paths = data.get("images") or ([data["image"]] if "image" in data else [])
            if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
                raise TypeError("`image` is a path, `images` a list of paths")
            images = tuple(ImageRef(os.path.join(base, path)) for path in paths)
        messages = None
        if "messages" in data:
            messages = tuple(Message(m["role"], m["content"]) for m in data["messages"])
        text = data.get("text")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Record(images or (), provenance=provenance, problem="bad_json")
    contents = [text or ""] if messages is None else [m.content for m in messages]
    if not all(isinstance(content, str) for content in contents):
        return Record(images, provenance=provenance, problem="bad_json")
    return Record(images, text, messages, provenance)


def parquet_path(path: str) -> str:
    """The embedded emoji set for `package:emoji`, else the path itself."""
    if path == EMOJI:
        return str(Path(__file__).parent.parent / "assets" / "fluent_emoji.parquet")
    return path


def _parquet(source: ParquetSource) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = parquet_path(source.path)
    if not exists(path):
        raise UserError(f"source.path {source.path} does not exist: give a parquet file or {EMOJI}")
    try:
        opened = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"source.path {source.path} is not a parquet file ({error}): give another") from None
    with opened as file:
        names = file.schema_arrow.names
        for column in (source.image_column, source.text_column, *source.where):
            if column not in names:
                raise UserError(f"{source.path} has no column {column!r}: it has {names}")
        extra = [n for n in ("label", "hexcode", "url", "id") if n in names]
        table = file.read(columns=sorted({source.text_column, *source.where, *extra}))
    for row, values in enumerate(table.to_pylist()):
        if any(str(values[column]) != wanted for column, wanted in source.where.items()):
            continue
        provenance: dict[str, Any] = {"row": row}
        for name in extra:
            plain = values[name] is None or isinstance(values[name], str | int | float)
            provenance[name] = values[name] if plain else str(values[name])
        text = values[source.text_column]
        problem = "" if text is None or isinstance(text, str) else "text_not_string"
        image = ImageRef(path, row, source.image_column)
        yield Record((image,), text=None if problem else text, provenance=provenance, problem=problem)


def _easy_vqa(source: EasyVqaSource) -> Iterator[Record]:
    """One record for at most `questions` questions of a picture; ids are positions in the published questions.json."""
    folder = easy_vqa_folder() / source.split
    by_picture: dict[int, list[tuple[int, str, str]]] = {}
    for number, (question, answer, picture) in enumerate(json.loads((folder / "questions.json").read_text())):
        by_picture.setdefault(picture, []).append((number, question, answer))
    for picture, asked in sorted(by_picture.items()):
        random.Random(f"{source.seed}:{picture}").shuffle(asked)
        for start in range(0, len(asked), source.questions):
            # What names the shape or colour comes last: before it, nothing gives the other answers away.
            part = sorted(asked[start : start + source.questions], key=lambda item: item[1].startswith("what"))
            turns = [
                m for _, question, answer in part for m in (Message("user", question), Message("assistant", answer))
            ]
            turns[0] = Message("user", IMAGE_MARK + turns[0].content)
            provenance = {"image_ids": [picture], "question_ids": [[number for number, _, _ in part]]}
            yield Record(
                (ImageRef(str(folder / "images" / f"{picture}.png")),), messages=tuple(turns), provenance=provenance
            )


def easy_vqa_folder() -> Path:
    """The data folder of the easy-vqa wheel."""
    import importlib.util

    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise UserError("the easy-vqa package is not installed: pip install easy-vqa")
    return Path(spec.origin).parent / "data"


_READERS: dict[type, Any] = {
    FolderSource: _folder,
    JsonlSource: _jsonl,
    ParquetSource: _parquet,
    EasyVqaSource: _easy_vqa,
}


@lru_cache(maxsize=4)
def _column(path: str, column: str) -> list[Any]:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=[column]).column(column).to_pylist()


def read_image(ref: ImageRef) -> bytes:
    """Bytes of a referenced picture. Raises OSError where there are none."""
    if ref.row < 0:
        return Path(ref.path).read_bytes()
    value = _column(ref.path, ref.column)[ref.row]
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes | None):
        raise OSError(f"column {ref.column} holds {type(data).__name__}, not bytes")
    return data or b""
