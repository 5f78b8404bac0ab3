"""One input row before anything was fetched: where its pictures are, and its text."""

from dataclasses import dataclass, field
from typing import Any

from data_pipeline.sample import Message, Reject


@dataclass(frozen=True)
class ImageRef:
    """Where a picture's bytes are.

    `path` is a URL (http, https, s3) or a file that the source vouches for. With `size >= 0`: the bytes
    `offset ... offset + size` of it (a member of a tar). With `row >= 0`: row `row` of column `column` of a parquet
    file. With `data`: here already. `canvas` (width, height) is what the picture is fitted on.
    """

    path: str = ""
    row: int = -1
    column: str = ""
    offset: int = -1
    size: int = -1
    data: bytes | None = field(default=None, repr=False)
    canvas: tuple[int, int] | None = None

    @property
    def is_http(self) -> bool:
        return self.path.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Record:
    """One input row: `text`, or `messages` (with `rejected`, the answer that was not chosen, for preference rows).

    `problem` marks a row that cannot be used, which is known from the source alone. `columns` holds what the source
    says beside, for filters; only `provenance` is kept with the sample.
    """

    images: tuple[ImageRef, ...] = ()
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    rejected: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    problem: Reject | None = None
