"""All records of a small source as a list: what composing and tests need. A build reads units of them instead."""

import tempfile
from pathlib import Path

from configs.errors import UserError
from configs.ingest import Source
from data_pipeline.ingest.record import Record
from data_pipeline.ingest.sources.inputs import describe, find_inputs, list_input
from data_pipeline.ingest.sources.reading import read_records
from data_pipeline.ingest.sources.spool import read_spool


def list_records(source: Source) -> list[Record]:
    """All records of a source, in its order.

    Raises:
        UserError: the source is missing, unreadable, or has no rows.
    """
    records: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="looksay-listing-") as folder:
        for number, found in enumerate(find_inputs(source)):
            item = list_input(source, found, str(Path(folder) / f"{number:06d}.parquet"))
            if item.spool is not None:
                records += read_spool(item.spool, 0, item.rows)
            else:
                records += read_records(source, item, 0, item.rows, frozenset())
    if not records:
        raise UserError(f"the source {describe(source)} has no rows: check its path and filters")
    return records
