"""Rows of a listed input, from anywhere in it, and the bytes of pictures that stand in a table."""

from collections.abc import Collection
from dataclasses import replace

from configs.errors import UserError
from configs.ingest import Source, TableSource
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.sources.found import Input
from data_pipeline.ingest.sources.inputs import root_of
from data_pipeline.ingest.sources.spool import check_columns, read_spool


def read_records(
    source: Source, item: Input, start: int, stop: int, columns: Collection[str] = frozenset()
) -> list[Record]:
    """Rows `start ... stop` of an input.

    Args:
        columns: names that `Record.columns` shall have; of text files, one that a row lacks is None.

    Raises:
        UserError: the input has no such column, or is damaged.
    """
    if item.spool is not None:
        check_columns(item.found.shown, item.spool, columns)
        records = read_spool(item.spool, start, stop)
        return [replace(r, columns={name: r.columns.get(name) for name in columns}) for r in records]
    from data_pipeline.ingest.sources.tables import read_table_rows

    if not isinstance(source, TableSource):
        raise UserError(f"{item.found.shown} was listed from another kind of source: list it again")
    return read_table_rows(source, item.found.path, start, stop, columns, root_of(source, item.found))


def read_cell(ref: ImageRef) -> bytes:
    """The bytes behind `ref.row` and `ref.column`. Raises OSError if there are none."""
    from data_pipeline.ingest.sources.cells import cell_bytes

    return cell_bytes(ref)
