"""Columns of record batches -> Python values of rows, and the bytes of a cell. Pictures are not copied into Python
before they are asked for: their values say HERE.
"""

import os
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.ingest.record import ImageRef
from data_pipeline.ingest.sources.record_images import HERE
from data_pipeline.ingest.sources.stored import Stored, first_line
from data_pipeline.ingest.sources.windows import forget, open_table, reading, window
from data_pipeline.sample import Reject


def may_be_pictures(kind: pa.DataType, texts: bool = False) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_list(kind):
        return may_be_pictures(kind.value_type, texts)
    if pa.types.is_struct(kind):
        return any(
            kind.field(n).name == "bytes" or (texts and kind.field(n).name in ("path", "url"))
            for n in range(kind.num_fields)
        )
    return _is_bytes(kind) or (texts and (_is_text(kind) or pa.types.is_null(kind)))


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    views = pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or views


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def column_to_read(stored: Stored, column: str | None, row: int) -> str | None:
    """What has to be read to know the pictures of rows around `row`; None: nothing, each has its bytes in place."""
    if column is None:
        return None
    kind = stored.schema.field(column).type
    item = kind.value_type if _is_list(kind) else kind
    if pa.types.is_struct(item) and item.get_field_index("bytes") >= 0:
        presence, path = stored.presence(row, column, "bytes"), stored.leaf(column, "path")
        if presence == "all" and not _is_list(kind):
            return None
        return column if presence == "mixed" or item.get_field_index("path") < 0 else path
    if _is_bytes(kind) and stored.presence(row, column, "") == "all":
        return None
    return column


def pictures(stored: Stored, column: str, read: str | None, batch: pa.RecordBatch, row: int) -> list[Any]:
    """Image values of a batch's rows, HERE in the place of bytes."""
    if read is None:
        return [HERE] * batch.num_rows
    # One leaf of a struct comes as a struct of that leaf alone, under the column's own name.
    array = batch.column(batch.schema.get_field_index(column))
    if read != column:
        return _values_of(array, all_here=stored.presence(row, column, "bytes") == "all")
    return _values_of(array)


def _values_of(array: pa.Array, all_here: bool = False) -> list[Any]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_list(array.type):
        items, out, at = _values_of(array.flatten(), all_here), [], 0
        for count in pc.list_value_length(array).to_pylist():
            out.append(None if count is None else items[at : at + count])
            at += count or 0
        return out
    if pa.types.is_struct(array.type):
        valid, names = array.is_valid().to_pylist(), [field.name for field in array.type]
        there = [all_here] * len(array)
        if "bytes" in names:
            there = pc.struct_field(array, "bytes").is_valid().to_pylist()
        path = next((name for name in ("path", "url") if name in names), None)
        paths = [None] * len(array) if path is None else _texts(pc.struct_field(array, path))
        return [
            None if not ok else HERE if here else {"path": path}
            for ok, here, path in zip(valid, there, paths, strict=True)
        ]
    if _is_bytes(array.type):
        return [HERE if ok else None for ok in array.is_valid().to_pylist()]
    return _texts(array)


def _texts(array: pa.Array) -> list[Any]:
    """Texts, with what is no UTF-8 in them replaced."""
    if not _is_text(array.type):
        return array.to_pylist()
    raw = array.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "replace") for value in raw]


def values_of(batch: pa.RecordBatch) -> list[dict[str, Any] | Reject]:
    """Rows as dicts; dates as text. A row that Python cannot hold is a Reject of its own."""
    try:
        for number, field in enumerate(batch.schema):
            if pa.types.is_temporal(field.type) and not pa.types.is_duration(field.type):
                batch = batch.set_column(number, field.name, _dates(batch.column(number)))
        return batch.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        if batch.num_rows > 1:
            return [value for number in range(batch.num_rows) for value in values_of(batch.slice(number, 1))]
        return [Reject("source", "bad_row", "a text is not UTF-8, or a value is out of range")]


def _dates(array: pa.Array) -> pa.Array:
    """Dates and times as text, in UTC where they have a zone: its rules may not be on this machine."""
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        text = array.cast(pa.timestamp(array.type.unit)).cast(pa.string())
        return pc.binary_join_element_wise(text, "Z", "")
    return array.cast(pa.string())


def cell_bytes(ref: ImageRef) -> bytes:
    """The bytes of a cell: row `ref.row` of `ref.column`, of a list its item `ref.offset`. Raises OSError."""
    try:
        stored = open_table(ref.path)
        if ref.column not in stored.schema.names:
            raise OSError(f"{ref.path} has no column {ref.column} any more")
        with reading:
            near = window(ref.path, [stored.leaf(ref.column, "bytes")])
            (batch,) = near.batches(ref.row, ref.row + 1)
    except (pa.ArrowException, OSError) as error:
        forget(ref.path)
        raise OSError(f"row {ref.row} of {os.path.basename(ref.path)} cannot be read: {first_line(error)}") from None
    cell = batch.column(0)[0]
    if ref.offset >= 0:
        items = cell.values
        if items is None or ref.offset >= len(items):
            raise OSError(f"row {ref.row} of column {ref.column} has no item {ref.offset}")
        cell = items[ref.offset]
    value = cell.as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        raise OSError(f"row {ref.row} of column {ref.column} holds no bytes")
    if not isinstance(data, bytes):
        raise OSError(f"column {ref.column} holds {type(data).__name__}, not bytes")
    return data
