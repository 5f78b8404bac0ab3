"""Records as a parquet file, so that rows of any source can be read from anywhere in it: written once, in order.

One row per record, row groups of SPOOL_GROUP rows (fewer where texts are long), the same bytes for the same records.
Paths in it are whole, for workers that stand elsewhere; `canonical` is what of a record counts, wherever it lies.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.sources.windows import open_table, reading, window
from data_pipeline.sample import Message, Reject
from data_pipeline.storage import is_remote, put_file

SPOOL_GROUP = 1000
GROUP_CHARS = 16 * 2**20
MOST_NAMES = 4096
"""Names of columns that a spool remembers, to find a misspelt one."""
_NAMES, _ROOT = b"looksay.columns", b"looksay.root"

SCHEMA = pa.schema(
    [
        (
            "images",
            pa.list_(
                pa.struct(
                    [
                        ("path", pa.string()),
                        ("row", pa.int64()),
                        ("column", pa.string()),
                        ("offset", pa.int64()),
                        ("size", pa.int64()),
                        ("canvas_w", pa.int32()),
                        ("canvas_h", pa.int32()),
                    ]
                )
            ),
        ),
        ("text", pa.string()),
        ("messages", pa.string()),
        ("rejected", pa.string()),
        ("provenance", pa.string()),
        ("columns", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""`messages` is JSON [[role, content], ...]; `provenance` and `columns` are JSON objects."""


def write_spool(path: str, records: Iterable[Record], group: int = SPOOL_GROUP, root: str = "") -> int:
    """Write records at `path`, whole or not at all; returns how many.

    Args:
        root: the folder that the source lies in, which does not count for its identity.
    """
    count = 0

    def write(target: str) -> None:
        nonlocal count
        names: dict[str, None] = {}
        with pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
            for rows in _groups(records, group, names):
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA), row_group_size=len(rows))
                count += len(rows)
            writer.add_key_value_metadata({_NAMES: json.dumps(sorted(names)), _ROOT: root})

    put_file(path, write)
    return count


def _groups(records: Iterable[Record], group: int, names: dict[str, None]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    chars = 0
    for record in records:
        if len(names) < MOST_NAMES:
            names.update(dict.fromkeys(record.columns))
        row = _row(record)
        rows.append(row)
        chars += len(row["text"] or "") + len(row["messages"] or "") + len(row["columns"]) + len(row["provenance"])
        if len(rows) >= group or chars > GROUP_CHARS:
            yield rows
            rows, chars = [], 0
    if rows:
        yield rows


def _row(record: Record) -> dict[str, Any]:
    problem = record.problem
    return {
        "images": [_image(ref) for ref in record.images],
        "text": record.text,
        "messages": None if record.messages is None else _json([[m.role, m.content] for m in record.messages]),
        "rejected": record.rejected,
        "provenance": _json(record.provenance),
        "columns": _json(record.columns),
        "stage": problem and problem.stage,
        "reason": problem and problem.reason,
        "detail": problem and problem.detail,
    }


def _image(ref: ImageRef) -> dict[str, Any]:
    if ref.data is not None:
        raise ValueError("bytes are not spooled: refer to where they lie")
    width, height = ref.canvas or (None, None)
    path = ref.path if is_remote(ref.path) else os.path.abspath(ref.path)
    place = {"path": path, "row": ref.row, "column": ref.column, "offset": ref.offset, "size": ref.size}
    return {**place, "canvas_w": width, "canvas_h": height}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def read_spool(path: str, start: int, stop: int) -> list[Record]:
    """Records `start ... stop`."""
    with reading:
        return [_record(row) for batch in window(path, SCHEMA.names).batches(start, stop) for row in batch.to_pylist()]


def spool_rows(path: str) -> int:
    """How many records there are."""
    return open_table(path).rows


def column_names(path: str) -> list[str]:
    """Names that occur in `Record.columns`."""
    return json.loads(open_table(path).notes.get(_NAMES, b"[]"))


def _record(row: dict[str, Any]) -> Record:
    images = tuple(
        ImageRef(
            image["path"],
            image["row"],
            image["column"],
            image["offset"],
            image["size"],
            canvas=None if image["canvas_w"] is None else (image["canvas_w"], image["canvas_h"]),
        )
        for image in row["images"]
    )
    turns = None if row["messages"] is None else tuple(Message(*turn) for turn in json.loads(row["messages"]))
    problem = None if row["stage"] is None else Reject(row["stage"], row["reason"], row["detail"] or "")
    provenance, columns = json.loads(row["provenance"]), json.loads(row["columns"])
    return Record(images, row["text"], turns, row["rejected"], provenance, columns, problem)


def spool_identity(path: str, rows: int) -> str:
    """SHA-256 of the first `rows` records of a spool: `Input.identity` of just these."""
    sha, root = hashlib.sha256(), open_table(path).notes.get(_ROOT, b"").decode()
    for start in range(0, rows, SPOOL_GROUP):
        for record in read_spool(path, start, min(rows, start + SPOOL_GROUP)):
            sha.update(canonical(record, root))
    return sha.hexdigest()


def canonical(record: Record, root: str) -> bytes:
    """What of a record counts, wherever its source lies: paths below `root`, else URLs whole and files by their names."""
    images = [(_place(ref.path, root), ref.row, ref.column, ref.offset, ref.size, ref.canvas) for ref in record.images]
    turns = None if record.messages is None else [(m.role, m.content) for m in record.messages]
    problem = record.problem and (record.problem.stage, record.problem.reason, record.problem.detail)
    said = [images, record.text, turns, record.rejected, record.provenance, record.columns, problem]
    return json.dumps(said, sort_keys=True).encode() + b"\n"


def _place(path: str, root: str) -> str:
    if root and path.startswith(root):
        return path[len(root) :].lstrip("/")
    return path if is_remote(path) else os.path.basename(path)


def check_columns(path: str, spool: str, wanted: Collection[str]) -> None:
    """Refuse a name that no row of the spool has.

    Raises:
        UserError: names it, and those that there are.
    """
    from data_pipeline.ingest.sources.columns import missing

    names = column_names(spool) if wanted else []
    for name in wanted:
        if name not in names and len(names) < MOST_NAMES:
            raise missing(path, name, names)
