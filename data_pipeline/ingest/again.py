"""Building into a finished dataset again: which rows are new, which rows failed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from configs.errors import UserError
from data_pipeline.ingest import stock
from data_pipeline.ingest.segments import Segment
from data_pipeline.ingest.sources.inputs import Input
from data_pipeline.ingest.sources.spool import spool_identity
from data_pipeline.manifest import Manifest
from data_pipeline.shard import read_table
from data_pipeline.storage import join, read_bytes

RETRIED = "fetch"
"""The stage whose rejections may pass: the bytes could not be had. What was had and refused stays refused."""


class Failed:
    """Rows of a dataset whose latest outcome is that they could not be fetched.

    Each build into the folder has its positions in ascending order; a retry takes all that failed before it. So
    what has failed now is what failed in the last retry and in all that came after it.
    """

    def __init__(self, output: str, manifest: Manifest):
        self.output, self.manifest = output, manifest
        self.shards = self._shards()
        self.reasons: Counter[str] = Counter()
        for _ in self._rows(self.reasons):
            pass
        self.count = self.reasons.total()

    def _shards(self) -> list[str]:
        """Names of the shards that may hold such rows, in an order in which positions ascend."""
        first, start = 0, 0
        for generation in self.manifest.generations:
            if generation.kind == "retry":
                start = first
            first += generation.shards
        return list(self.manifest.shards.names)[start:]

    def positions(self) -> Iterator[int]:
        """Positions, ascending; one shard's table in memory at a time."""
        return self._rows(Counter())

    def _rows(self, reasons: Counter[str]) -> Iterator[int]:
        for name in self.shards:
            table = read_table(read_bytes(join(self.output, f"{name}.outcomes.parquet")))
            stages, named = table["stage"].to_pylist(), table["reason"].to_pylist()
            for position, stage, reason in zip(table["position"].to_pylist(), stages, named, strict=True):
                if stage == RETRIED:
                    reasons[f"{stage}/{reason}"] += 1
                    yield position


def extended(output: str, old: Sequence[tuple[int, Segment]], inputs: Sequence[Input], rows: str) -> list[Segment]:
    """Segments of the rows that are new: of new inputs, of files that have grown, of pictures new in a folder.

    Raises:
        UserError: rows that were there before are no longer the same.
    """
    before = stock.latest(old)
    first = max((segment.first + segment.rows for _, segment in old), default=0)
    out = []
    for item in inputs:
        known = before.get(item.found.name)
        if known is not None and item.found.kind == "folder":
            item = _with_new_pictures(output, item, rows)
        start = 0 if known is None else known.rows
        if known is not None and (item.rows, item.identity) != (known.rows, known.identity):
            _check_prefix(output, known, item)
        if item.rows > start:
            out.append(Segment(item, start, item.rows, first))
            first += item.rows - start
    return out


def _with_new_pictures(output: str, item: Input, rows: str) -> Input:
    """The listing of a folder with what is new behind what was there; its identity stays that of the folder itself."""
    assert item.spool is not None
    listing = join(rows, stock.LISTING)
    count = stock.joined_listing(join(output, stock.LISTING), item.spool, listing)
    return replace(item, rows=count, spool=listing)


def _check_prefix(output: str, known: Input, item: Input) -> None:
    if item.found.kind == "folder":
        return  # put together from the old listing
    grown = item.rows > known.rows and item.spool is not None
    if not grown or spool_identity(str(item.spool), known.rows) != known.identity:
        raise UserError(
            f"{output} cannot be extended: the {known.rows} rows of input {item.found.name} are no longer the same; "
            "give new files, new pictures of a folder, or rows added at the end of a text file, or build anew"
        )


def relisted(output: str, old: Sequence[tuple[int, Segment]], inputs: Sequence[Input]) -> list[Segment]:
    """The dataset's segments over inputs as they can be read now.

    Raises:
        UserError: an input is gone or has changed.
    """
    now = {item.found.name: item for item in inputs}
    out = []
    for _, segment in old:
        item, name = segment.item, segment.item.found.name
        if item.found.kind == "folder":
            out.append(replace(segment, item=replace(item, spool=join(output, stock.LISTING))))
            continue
        if name not in now or now[name].rows < segment.stop:
            raise UserError(
                f"input {name} of {output} is gone or has fewer rows now: put it back to try its rows again"
            )
        if (now[name].rows, now[name].identity) != (item.rows, item.identity):
            _check_prefix(output, item, now[name])
        out.append(replace(segment, item=now[name]))
    return sorted(out, key=lambda segment: segment.first)
