"""Parquet and Arrow files read in place: identity, columns, and rows as records whose pictures are cells of the file.

A record names the cell that its picture is in; the bytes are read when they are asked for (`cell_bytes`). Windows on
files are kept by the process, so that neighbouring rows cost one reading of what surrounds them.
"""

import hashlib
from collections.abc import Collection, Iterator

import pyarrow as pa

from configs.errors import UserError
from configs.ingest import TableSource
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.sources.cells import column_to_read, may_be_pictures, pictures, values_of
from data_pipeline.ingest.sources.columns import KEPT, Columns, choose, missing, require
from data_pipeline.ingest.sources.found import Found, Input
from data_pipeline.ingest.sources.record_images import Root
from data_pipeline.ingest.sources.rows import Rows
from data_pipeline.ingest.sources.stored import ArrowStored, first_line, open_stored
from data_pipeline.ingest.sources.windows import forget, open_table, reading, window
from data_pipeline.sample import Reject
from data_pipeline.storage import read_tail, size_of


def list_table(source: TableSource, found: Found) -> Input:
    """Rows and identity of a file. Raises UserError: it is not such a file, or lacks a column."""
    try:
        forget(found.path)
        stored = open_stored(found.path)
        if stored.schema.names:
            _check(source, stored.schema, found.path)
        identity = _arrow_identity(stored) if isinstance(stored, ArrowStored) else _parquet_identity(found.path)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError | FileNotFoundError):
            raise
        what = "a parquet file" if found.kind == "parquet" else "an Arrow file"
        raise UserError(f"{found.path} is not {what} ({first_line(error)}): give another, or fetch it again") from None
    return Input(found, stored.rows, identity, None)


def _check(source: TableSource, schema: pa.Schema, path: str) -> Columns:
    if len(set(schema.names)) != len(schema.names):
        raise UserError(f"{path} has columns of the same name ({', '.join(schema.names)}): rename them")
    columns = choose(source, schema.names)
    binary = [field.name for field in schema if may_be_pictures(field.type)]
    require(source, columns, schema.names, binary, path)
    if columns.image is not None and not may_be_pictures(schema.field(columns.image).type, texts=True):
        kind = schema.field(columns.image).type
        raise UserError(
            f"column {columns.image!r} of {path} is {kind}: name a column of bytes, URLs or paths with image_column"
        )
    return columns


def _parquet_identity(path: str) -> str:
    """Of the footer, which has schema, counts, sizes and statistics of every column chunk."""
    length = int.from_bytes(read_tail(path, 8)[:4], "little")
    return hashlib.sha256(str(size_of(path)).encode() + read_tail(path, length + 8)).hexdigest()


def _arrow_identity(stored: ArrowStored) -> str:
    """Of the schema and the sizes of all buffers."""
    sha = hashlib.sha256(stored.schema.serialize().to_pybytes())
    for batch in stored.every():
        sizes = [-1 if buffer is None else buffer.size for column in batch.columns for buffer in column.buffers()]
        sha.update(f"{batch.num_rows}:{sizes}".encode())
    return sha.hexdigest()


def read_table_rows(
    source: TableSource, path: str, start: int, stop: int, extra: Collection[str], root: Root
) -> list[Record]:
    """Rows `start ... stop` as records.

    Raises:
        UserError: a column of `extra` is not there, or the file is damaged.
    """
    try:
        with reading:
            return list(_records(source, path, start, stop, extra, root))
    except (pa.ArrowException, OSError) as error:
        forget(path)
        what = "may not be read" if isinstance(error, PermissionError) else "is damaged"
        raise UserError(
            f"{path} {what} in rows {start} to {stop} ({first_line(error)}): fetch or write it again"
        ) from None


def _records(
    source: TableSource, path: str, start: int, stop: int, extra: Collection[str], root: Root
) -> Iterator[Record]:
    stored = open_table(path)
    columns = _check(source, stored.schema, path)
    for name in extra:
        if name not in stored.schema.names:
            raise missing(path, name, stored.schema.names)
    rows, at = Rows(source, root, "bad_row"), start
    while at < stop:
        end = min(stop, stored.part(at)[1])
        beside = _beside(source, columns, extra, stored.schema.names)
        image = column_to_read(stored, columns.image, at)
        wanted = sorted({*beside, *([image] if image else [])})
        for batch in window(path, wanted).batches(at, end):
            images = None if columns.image is None else pictures(stored, columns.image, image, batch, at)
            for number, values in enumerate(values_of(batch.select(beside))):
                place = {"row": at + number}
                if isinstance(values, Reject):
                    yield Record(provenance=place, problem=values)
                    continue
                if images is not None and columns.image is not None:
                    values[columns.image] = images[number]

                def cell(item: int, row: int = at + number) -> ImageRef:
                    return ImageRef(path, row, columns.image or "", offset=item)

                yield rows.record(values, columns, place, cell, extra)
            at += batch.num_rows


def _beside(source: TableSource, columns: Columns, extra: Collection[str], names: list[str]) -> list[str]:
    """Columns to read beside the picture's."""
    parts = {
        "pairs": (columns.text,),
        "conversations": (columns.messages,),
        "preference": (columns.question, columns.chosen, columns.rejected),
    }[columns.kind]
    kept = source.keep_columns if source.keep_columns is not None else [n for n in names if n.lower() in KEPT]
    return sorted({name for name in (*parts, *source.where, *kept, *extra) if name is not None} - {columns.image})
