"""Text files of rows -> (where, row) in order, in memory of one row: csv, tsv, JSON lines and JSON lists, gzipped too.

A line that is broken costs its own row; a file that cannot be read on is refused with a sentence.
"""

import csv
import gzip
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from configs.errors import UserError
from data_pipeline.ingest.sources.found import Found
from data_pipeline.ingest.sources.json_stream import BadJson, JsonStream
from data_pipeline.ingest.sources.rows import BadRow, parse_object
from data_pipeline.sample import Reject
from data_pipeline.storage import open_stream

MOST_LINE = 16 * 2**20
"""Bytes of one JSON line."""
MOST_RECORD = 2**20
"""Bytes of one row of csv: a quote that is never closed takes in so much and no more."""
_CHUNK = 2**20

Row = dict[str, Any] | Reject
Placed = tuple[dict[str, Any], Row]
"""Where a row stands, for provenance, and the row, or why it is none."""


@contextmanager
def opened(found: Found) -> Iterator[BinaryIO]:
    """The text of a file, unpacked where its name ends in .gz.

    Raises:
        UserError: the compressed data is damaged or cut.
    """
    with open_stream(found.path) as stream:
        if not found.shown.lower().endswith(".gz"):
            yield stream
            return
        try:
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield cast(BinaryIO, unpacked)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{found.shown} is no whole gzip file ({error}): fetch or pack it again") from None


def rows_of(found: Found, header: Callable[[list[str]], Any]) -> Iterator[Placed]:
    """Rows of a csv, tsv, json or jsonl file; `header` is told the columns that a csv names."""
    with opened(found) as stream:
        if found.kind in ("csv", "tsv"):
            reader = Csv(found, stream, "\t" if found.kind == "tsv" else ",")
            header([name for name in reader.names if name])
            yield from reader.rows()
        elif found.kind == "json" and _begins_with_list(found):
            yield from _items(found, stream)
        else:
            yield from _json_lines(found, stream)


def _begins_with_list(found: Found) -> bool:
    with opened(found) as stream:
        try:
            return JsonStream(stream).peek() == "["
        except BadJson:
            return False


def _items(found: Found, stream: BinaryIO) -> Iterator[Placed]:
    reader = JsonStream(stream)
    number = 0
    try:
        for number, item in enumerate(reader.items()):
            place = {"row": number}
            if isinstance(item, dict):
                yield place, item
            else:
                yield place, Reject("source", "bad_json", f"a row is {type(item).__name__}, not an object")
        reader.end()
    except BadJson as error:
        raise UserError(f"{found.shown} is not whole JSON behind row {number} ({error}): write it again") from None


def _json_lines(found: Found, stream: BinaryIO) -> Iterator[Placed]:
    for number, line in capped_lines(stream, MOST_LINE):
        place = {"line": number}
        if line is None:
            yield place, Reject("source", "bad_json", f"the line is longer than {MOST_LINE:,} bytes")
        elif line.strip():
            try:
                yield place, parse_object(line)
            except BadRow as error:
                if number == 1 and found.kind == "json":
                    raise UserError(
                        f"{found.shown} is neither a JSON list of rows nor one JSON object a line ({error}): write one of these"
                    ) from None
                yield place, Reject("source", "bad_json", str(error)[:300])


def capped_lines(stream: BinaryIO, most: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers from 1; None for one that is longer than `most` bytes."""
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        if len(line) <= most or line.endswith(b"\n"):
            yield number, line
            continue
        while (rest := stream.readline(_CHUNK)) and not rest.endswith(b"\n"):
            pass
        yield number, None


class Csv:
    """Rows of a csv file as dicts of texts.

    A field in quotes may hold line breaks. Where such a row goes wrong (its quote is never closed, or it has not the
    header's number of fields), only its first line is a bad row, and reading goes on with the line behind it.
    """

    def __init__(self, found: Found, stream: BinaryIO, delimiter: str):
        self.found, self.delimiter = found, delimiter
        self.lines = capped_lines(stream, MOST_RECORD)
        self.again: deque[tuple[int, bytes | None]] = deque()
        self.taken: list[tuple[int, bytes | None]] = []
        self.size = 0
        csv.field_size_limit(2 * MOST_RECORD)
        self._header()

    def _next(self) -> tuple[int, bytes | None] | None:
        return self.again.popleft() if self.again else next(self.lines, None)

    def _texts(self) -> Iterator[str]:
        """Lines for the parser; what it takes for one row is remembered."""
        while (item := self._next()) is not None:
            self.taken.append(item)
            self.size += len(item[1] or b"")
            if item[1] is None:
                raise BadRow(f"the line is longer than {MOST_RECORD:,} bytes")
            if self.size > MOST_RECORD:
                raise BadRow("a quote is not closed")
            try:
                yield item[1].decode()
            except UnicodeDecodeError:
                raise BadRow("the line is not UTF-8") from None

    def _header(self) -> None:
        number, line = self._next() or (0, None)
        if number == 0:
            raise UserError(f"{self.found.shown} is empty: its first line names its columns")
        try:
            names = next(csv.reader([(line or b"").decode("utf-8-sig")], delimiter=self.delimiter), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f"the first line of {self.found.shown} is no header ({error}): write UTF-8 text whose first line names its columns"
            ) from None
        named = [name for name in names if name]
        if not named or len(set(named)) < len(named):
            raise UserError(
                f"the first line of {self.found.shown} names no columns, or two alike: "
                f"write a first line such as url{self.delimiter}caption"
            )
        self.names = names

    def rows(self) -> Iterator[Placed]:
        parser = self._parser()
        while True:
            self.taken, self.size = [], 0
            try:
                fields = next(parser, None)
                if fields is None:
                    return
                problem = self._problem(fields)
            except (csv.Error, BadRow) as error:
                problem, parser = str(error) if len(self.taken) < 2 else "a quote is not closed", self._parser()
            place = {"line": self.taken[0][0]}
            if problem:
                if len(self.taken) > 1:
                    self.again.extendleft(reversed(self.taken[1:]))
                    parser = self._parser()
                yield place, Reject("source", "bad_row", problem)
            elif fields:
                yield place, {name: value for name, value in zip(self.names, fields, strict=True) if name}

    def _parser(self) -> Iterator[list[str]]:
        return iter(csv.reader(self._texts(), delimiter=self.delimiter))

    def _problem(self, fields: list[str]) -> str:
        if fields and len(fields) != len(self.names):
            return f"{len(fields)} fields, the header has {len(self.names)}"
        # At the end of the file the parser closes an open quote by itself.
        odd = len(self.taken) > 1 and sum((line or b"").count(b'"') for _, line in self.taken) % 2
        if odd or (len(self.taken) == 1 and fields and fields[-1].endswith("\n")):
            return "a quote is not closed"
        return ""
