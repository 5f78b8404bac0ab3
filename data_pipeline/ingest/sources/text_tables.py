"""Rows of csv, tsv, json and jsonl files -> records. Columns are known when all rows were seen: then they are checked."""

from collections.abc import Iterable, Iterator

from configs.ingest import TableSource
from data_pipeline.ingest.record import Record
from data_pipeline.ingest.sources.columns import Columns, choose, missing, require
from data_pipeline.ingest.sources.found import Found
from data_pipeline.ingest.sources.lines import rows_of
from data_pipeline.ingest.sources.record_images import Root
from data_pipeline.ingest.sources.rows import Rows
from data_pipeline.sample import Reject

MOST_NAMES = 4096
MOST_SHAPES = 256


def text_records(source: TableSource, found: Found, root: Root) -> Iterator[Record]:
    """Records in the file's order.

    Raises:
        UserError: a csv lacks a column; of JSON, no row has a column that is asked for, or any that is known.
    """
    rows = Rows(source, root, "bad_row" if found.kind in ("csv", "tsv") else "bad_json")
    shapes = _Shapes(source, found)
    for place, row in rows_of(found, shapes.columns):
        if isinstance(row, Reject):
            yield Record(provenance=place, problem=row)
        else:
            yield rows.record(row, shapes.columns(row), place)
    shapes.check()


class _Shapes:
    """What the columns of rows are, for each set of names that occurs."""

    def __init__(self, source: TableSource, found: Found):
        self.source, self.found = source, found
        self.known: dict[tuple[str, ...], Columns] = {}
        self.names: dict[str, None] = {}
        self.usable = self.pictured = False

    def columns(self, row: Iterable[str]) -> Columns:
        names = tuple(row)
        columns = self.known.get(names)
        if columns is None:
            columns = choose(self.source, names)
            if self.found.kind in ("csv", "tsv"):
                require(self.source, columns, names, (), self.found.shown)
            if len(self.names) < MOST_NAMES:
                self.names.update(dict.fromkeys(names))
            self.usable |= columns.kind != "pairs" or columns.text is not None
            self.pictured |= columns.image is not None
            if len(self.known) < MOST_SHAPES:
                self.known[names] = columns
        return columns

    def check(self) -> None:
        """Refuse JSON of which no row has what is asked for."""
        names = list(self.names)
        if not names or len(names) >= MOST_NAMES:
            return
        source = self.source
        named = [source.image_column, source.text_column, source.messages_column, *source.where]
        for name in [*named, *(source.keep_columns or ())]:
            if name is not None and name not in self.names:
                raise missing(self.found.shown, name, names)
        if not (self.usable and self.pictured):
            columns = choose(source, names)
            require(source, columns, names, (), self.found.shown)
