"""Sources as recipes write them, their rows, and small pictures."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from configs.ingest import Source
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.sources.found import Input
from data_pipeline.ingest.sources.inputs import find_inputs, list_input
from data_pipeline.ingest.sources.reading import read_cell, read_records

SOURCE: TypeAdapter[Source] = TypeAdapter(Source)


def table(path: Any, **more: Any) -> Source:
    return SOURCE.validate_python({"type": "table", "path": path if isinstance(path, tuple) else str(path), **more})


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def inputs(source: Source, work: Path) -> list[Input]:
    return [list_input(source, found, str(work / f"{n}.spool")) for n, found in enumerate(find_inputs(source))]


def rows(source: Source, work: Path, columns: frozenset[str] = frozenset()) -> list[Record]:
    """All rows, read in runs of three as a build reads its units."""
    out = []
    for item in inputs(source, work):
        for start in range(0, item.rows, 3):
            out += read_records(source, item, start, min(item.rows, start + 3), columns)
    return out


def problems(records: list[Record]) -> list[str | None]:
    return [record.problem and f"{record.problem.stage}/{record.problem.reason}" for record in records]


def data_of(ref: ImageRef) -> bytes:
    """The bytes behind a reference that is no URL."""
    if ref.row >= 0:
        return read_cell(ref)
    data = Path(ref.path).read_bytes()
    return data[ref.offset : ref.offset + ref.size] if ref.size >= 0 else data
