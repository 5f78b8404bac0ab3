"""What every place for bytes can do. Paths go in and come out as the user writes them, with their scheme."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from configs.errors import RunError


@dataclass(frozen=True, order=True)
class Stat:
    """A file: path (with scheme), size in bytes, stamp (mtime in ns, or the store's ETag): other bytes, other stamp."""

    path: str
    size: int
    stamp: str


class Store(Protocol):
    """A place for bytes.

    A file that is not there is FileNotFoundError. What the user can put right (keys, rights, names) is UserError, what
    passes by itself and did not within the time that it was given is RunError.
    """

    def read(self, path: str) -> bytes: ...

    def read_range(self, path: str, offset: int, size: int) -> bytes: ...

    def read_tail(self, path: str, size: int) -> bytes: ...

    def open(self, path: str) -> BinaryIO: ...

    def stat(self, path: str) -> Stat | None:
        """None where no *file* is."""

    def exists(self, path: str) -> bool:
        """A file or a folder."""

    def list(self, folder: str, prefix: str = "") -> Iterator[tuple[str, Stat | None]]:
        """Names in a folder that begin with `prefix`, with None for folders; nothing where there is no folder."""

    def walk(self, folder: str) -> Iterator[Stat]:
        """All files below a folder."""

    def put(self, path: str, data: bytes, if_absent: bool) -> bool: ...

    def put_file(self, path: str, file: str, if_absent: bool) -> bool:
        """Publish the local temporary `file` at `path`; the file may be gone afterwards."""

    def remove(self, path: str) -> None:
        """Nothing happens where no file is."""

    def remove_tree(self, folder: str) -> None: ...


def base_name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def below(folder: str, name: str) -> str:
    """A path in a folder ("" is the current one)."""
    return f"{folder.rstrip('/')}/{name}" if folder.strip("/") else f"{folder}{name}"


def no_space(path: str, where: str = "") -> RunError:
    beside = f" ({where})" if where else ""
    return RunError(f"no space is left for {path}{beside}: free some or choose another folder; nothing was changed")


def without_secrets(text: str) -> str:
    """Names and passwords in URLs go; nothing else of ours ever holds a secret."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)
