"""What a source is made of: a file that was found, and an input whose rows were counted. Plain and small."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """One file (or folder) of a source.

    `path` is whole: a worker that stands elsewhere finds it. `name` is the path below the folder that all files of the
    source have in common: it says nothing of where the source lies. `stamp` changes when the content may have changed.
    """

    path: str
    name: str
    kind: str
    size: int
    stamp: str

    @property
    def shown(self) -> str:
        """The path for sentences: a signed URL's signature is nobody's business."""
        return self.path.split("?")[0] if self.path.startswith(("http://", "https://")) else self.path


@dataclass(frozen=True)
class Input:
    """A file with its number of rows.

    `identity` is a SHA-256 of what matters of its content, wherever it lies. `spool` is the parquet file with its rows
    as records, where the file itself cannot be read from the middle; None: it is read in place.
    """

    found: Found
    rows: int
    identity: str
    spool: str | None
