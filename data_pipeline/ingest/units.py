"""One unit of work: a run of input rows -> decoded samples and outcomes, committed as one parquet file.

The file at its final name *is* the commit: a unit that has one is never done again, whatever is killed.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from configs.ingest import ImagesConfig, TextConfig
from data_pipeline.ingest.decode import PictureError, decode, encode, on_canvas, resize
from data_pipeline.ingest.sources import ImageRef, Record, read_image
from data_pipeline.sample import IMAGE_MARK, ImageInfo, Reject, Sample, key_of, parse_body
from data_pipeline.shard import read_table, table_bytes
from data_pipeline.storage import join, put, read_bytes

UNIT_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("body", pa.binary()),
        ("images", pa.list_(pa.binary())),
        ("formats", pa.list_(pa.string())),
        ("sizes", pa.list_(pa.list_(pa.int32()))),
    ]
)


@dataclass(frozen=True)
class Outcome:
    """What became of one input row: a sample, or the reason why not."""

    position: int
    sample: Sample | None
    reject: Reject | None


def make_sample(position: int, record: Record, images: ImagesConfig, text: TextConfig) -> Sample | Reject:
    """Read, check, decode, resize and encode one record."""
    if record.problem:
        return Reject("source", record.problem)
    problem = _text_problem(record, text)
    if problem:
        return problem
    stored: list[tuple[bytes, ImageInfo]] = []
    for ref in record.images:
        try:
            stored.append(_picture(ref, images))
        except OSError as error:
            return Reject("fetch", "unreadable", f"{ref.path.rsplit('/', 1)[-1]}: {type(error).__name__}")
        except PictureError as error:
            return Reject("decode", error.reason, str(error))
    return Sample(
        key=key_of(position),
        images=tuple(data for data, _ in stored),
        formats=(images.format,) * len(stored),
        infos=tuple(info for _, info in stored),
        text=None if record.messages is not None else record.text,
        messages=record.messages,
        provenance=record.provenance,
    )


def _text_problem(record: Record, text: TextConfig) -> Reject | None:
    if record.messages is None and not (record.text or "").replace(IMAGE_MARK, "").strip():
        return Reject("filter", "empty_text")
    contents = [record.text or ""] if record.messages is None else [m.content for m in record.messages]
    if record.messages is not None:
        roles = {m.role for m in record.messages}
        if "assistant" not in roles or not roles <= {"user", "assistant"}:
            return Reject("filter", "no_answer", f"roles {sorted(roles)}")
    chars = sum(len(c) for c in contents)
    marks = sum(c.count(IMAGE_MARK) for c in contents)
    if not text.min_chars <= chars <= text.max_chars:
        return Reject("filter", "text_length", f"{chars} characters")
    if marks != len(record.images) and (marks or record.messages is not None):
        return Reject("filter", "image_marks", f"{marks} marks for {len(record.images)} pictures")
    return None


class _Recent:
    """Encoded pictures of a worker that may come again (easy-VQA asks ten questions about each), by bytes bounded."""

    def __init__(self, most_bytes: int):
        self.most, self.held = most_bytes, 0
        self.pictures: OrderedDict[tuple[ImageRef, ImagesConfig], tuple[bytes, ImageInfo]] = OrderedDict()

    def get(self, ref: ImageRef, config: ImagesConfig) -> tuple[bytes, ImageInfo]:
        key = (ref, config)
        if key not in self.pictures:
            self.pictures[key] = _encoded(ref, config)
            self.held += len(self.pictures[key][0])
            while self.held > self.most and len(self.pictures) > 1:
                _, (data, _) = self.pictures.popitem(last=False)
                self.held -= len(data)
        return self.pictures[key]


_recent = _Recent(64 * 2**20)


def _picture(ref: ImageRef, config: ImagesConfig) -> tuple[bytes, ImageInfo]:
    # A picture that stands alone is seen once: keeping it would only cost memory.
    return _recent.get(ref, config) if ref.canvas else _encoded(ref, config)


def _encoded(ref: ImageRef, config: ImagesConfig) -> tuple[bytes, ImageInfo]:
    picture = decode(read_image(ref), config.max_pixels)
    if ref.canvas:
        fitted = on_canvas(picture, ref.canvas, config.pad)
    else:
        fitted = resize(picture, config.mode, config.size, config.pad)
    return encode(fitted, config.format, config.quality)


def unit_path(output: str, number: int) -> str:
    return join(join(output, "work"), f"{number:07d}.parquet")


def process_unit(
    output: str, number: int, first: int, records: list[Record], images: ImagesConfig, text: TextConfig
) -> tuple[int, int]:
    """Do unit `number`, whose rows start at position `first`, and commit it. Returns (kept, rejected)."""
    rows: list[dict[str, Any]] = []
    kept = 0
    for offset, record in enumerate(records):
        result = make_sample(first + offset, record, images, text)
        row: dict[str, Any] = {"position": first + offset}
        if isinstance(result, Reject):
            row |= {"stage": result.stage, "reason": result.reason, "detail": result.detail}
        else:
            kept += 1
            row |= {
                "body": result.body(),
                "images": list(result.images),
                "formats": list(result.formats),
                "sizes": [[info.width, info.height] for info in result.infos],
            }
        rows.append(row)
    put(unit_path(output, number), table_bytes(pa.Table.from_pylist(rows, UNIT_SCHEMA)))
    return kept, len(rows) - kept


def read_unit(output: str, number: int) -> Iterator[Outcome]:
    """Outcomes of a committed unit, in order."""
    for row in read_table(read_bytes(unit_path(output, number))).to_pylist():
        position = row["position"]
        if row["body"] is None:
            yield Outcome(position, None, Reject(row["stage"], row["reason"], row["detail"] or ""))
            continue
        talk = parse_body(row["body"])
        infos = tuple(ImageInfo(width, height) for width, height in row["sizes"])
        sample = Sample(
            key_of(position),
            tuple(row["images"]),
            tuple(row["formats"]),
            infos,
            talk.text,
            talk.messages,
            talk.provenance,
        )
        yield Outcome(position, sample, None)
