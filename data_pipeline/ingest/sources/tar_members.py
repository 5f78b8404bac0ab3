"""A tar from anywhere, read once from start to end -> its plain files: names and where their bytes lie.

Nothing is extracted or decoded. Links, devices, folders and sparse files are passed over. A tar that is cut, or that
goes on after its end, raises: Python's tarfile, and what is built on it, take both for an end.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
MOST_EXTENSION = 2**20
"""Bytes of one extended header: long names and the like."""
MOST_NAME = 4096
_CHUNK = 2**20
_SPARSE_FLAG, _SPARSE_NEXT = 482, 504
"""Where GNU's old sparse header, and each block behind it, says that one more block follows."""
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Damaged(ValueError):
    """The archive cannot be read on at byte `offset`."""

    def __init__(self, offset: int, why: str):
        super().__init__(why)
        self.offset = offset


@dataclass(frozen=True)
class Member:
    """A plain file of the archive. Its bytes are `offset ... offset + size` of the tar; `data` where they were asked for."""

    name: str
    offset: int
    size: int
    data: bytes | None = None


class TarReader:
    """Reads a tar from its start.

    Args:
        stream: only read forwards; where it can seek, the bytes of members are skipped over.
        size: bytes of the whole file.
    """

    def __init__(self, stream: BinaryIO, size: int, seekable: bool):
        self.stream, self.size, self.seekable = stream, size, seekable
        self.at = 0

    def members(self, wanted: Callable[[str, int], bool]) -> Iterator[Member]:
        """Plain files in order; `wanted(name, size)` says whether the bytes of one are needed.

        Raises:
            Damaged: bad header, cut file, or something behind the end.
        """
        while True:
            start = self.at
            info, name = self._header()
            if info is None:
                self._rest(start)
                return
            if not _has_data(info):
                continue
            if self.at + info.size > self.size:
                raise Damaged(start, f"{_short(info.name)} has {info.size} bytes, the file ends before")
            offset, data = self.at, None
            if name is not None:
                if wanted(name, info.size):
                    data = self._read(info.size)
                yield Member(name, offset, info.size, data)
            self._skip_to(offset + _blocks(info.size))

    def _header(self) -> tuple[tarfile.TarInfo | None, str | None]:
        """The next header, its extensions applied; the name is None for what is no plain file. None: the end."""
        pax: dict[str, str] = {}
        long_name = None
        while True:
            start = self.at
            info = self._block(start)
            if info is None:
                if pax or long_name is not None:
                    raise Damaged(start, "it ends behind an extended header")
                return None, None
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                pax = _pax(self._extension(info, start), start)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                raw = self._extension(info, start).split(b"\0")[0]
                long_name = raw.decode("utf-8", "surrogateescape")
            elif info.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
                self._extension(info, start)
            else:
                break
        if info.type == tarfile.GNUTYPE_SPARSE:
            self._sparse_map(info, start)
        if "size" in pax:
            info.size = _number(pax["size"], start)
        name = pax.get("path", long_name if long_name is not None else info.name)
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in pax)
        plain = info.isreg() and not sparse and len(name) <= MOST_NAME
        return info, name if plain else None

    def _block(self, start: int) -> tarfile.TarInfo | None:
        block = self._read(BLOCK)
        if not block and start == self.size:
            raise Damaged(start, "it ends without the mark of an end")
        if len(block) == BLOCK and not block.strip(b"\0"):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise Damaged(start, f"no header is there ({error})") from None
        if info.size < 0:
            raise Damaged(start, f"a member has {info.size} bytes")
        return info

    def _extension(self, info: tarfile.TarInfo, start: int) -> bytes:
        if info.size > MOST_EXTENSION:
            raise Damaged(start, f"an extended header of {info.size} bytes")
        data = self._read(_blocks(info.size))
        if len(data) < info.size:
            raise Damaged(start, "the file ends inside an extended header")
        return data[: info.size]

    def _sparse_map(self, info: tarfile.TarInfo, start: int) -> None:
        """Pass over the blocks of a sparse file's map."""
        more = info._sparse_structs[1]  # type: ignore[attr-defined]
        while more:
            block = self._read(BLOCK)
            if len(block) < BLOCK:
                raise Damaged(start, "the file ends inside a sparse member")
            more = bool(block[_SPARSE_NEXT])

    def _rest(self, end: int) -> None:
        """Behind the end are zeros only; a header among them means that the block before was overwritten."""
        seen = 0
        while seen < _CHUNK and (data := self._read(BLOCK * 16)):
            if data.strip(b"\0"):
                raise Damaged(end, "a block of zeros, and more behind it")
            seen += len(data)

    def _read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (part := self.stream.read(min(size, _CHUNK))):
            parts.append(part)
            size -= len(part)
            self.at += len(part)
        return b"".join(parts)

    def _skip_to(self, place: int) -> None:
        if place <= self.at:
            return
        if self.seekable:
            self.stream.seek(place)
            self.at = place
            return
        while self.at < place and self._read(min(_CHUNK, place - self.at)):
            pass


def _has_data(info: tarfile.TarInfo) -> bool:
    """Whether bytes follow the header: the size of links, folders and devices does not count."""
    return info.isreg() or info.type not in tarfile.SUPPORTED_TYPES


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _pax(data: bytes, start: int) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE\\n` of an extended header."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at : at + 1] != b"\0":
        length, space, _ = data[at : at + 24].partition(b" ")
        if not space or not length.isdigit():
            raise Damaged(start, "an extended header that is none")
        stop = at + int(length)
        record = data[at + len(length) + 1 : stop]
        key, equals, value = record.partition(b"=")
        if stop > len(data) or stop <= at or not equals or not value.endswith(b"\n"):
            raise Damaged(start, "an extended header that is none")
        found[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        at = stop
    return found


def _number(text: str, start: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Damaged(start, f"a member of {text[:20]!a} bytes")
    return int(text)


def _short(name: str) -> str:
    return ascii(name)[:100]
