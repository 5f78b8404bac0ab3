"""Files of this machine. A write is a temporary file in the same folder, fsync, then rename (or link, if absent)."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_pipeline.stores.store import Stat, below

TEMPORARY = ".looksay-"
"""Prefix of files that are being written; one that a killed process left behind is nobody's."""

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems say that have no hard links (FAT, some FUSE)."""


class LocalStore:
    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        with open(path, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def read_tail(self, path: str, size: int) -> bytes:
        with open(path, "rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
            return stream.read(size)

    def open(self, path: str) -> BinaryIO:
        return open(path, "rb", buffering=2**20)

    def stat(self, path: str) -> Stat | None:
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _stat(path, found) if os.path.isfile(path) else None

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def list(self, folder: str, prefix: str = "") -> Iterator[tuple[str, Stat | None]]:
        if not os.path.isdir(folder or "."):
            return
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if not entry.name.startswith(prefix):
                    continue
                try:
                    if entry.is_dir():
                        yield entry.name, None
                    elif entry.is_file():  # not a socket, not a link to nothing
                        yield entry.name, _stat(below(folder, entry.name), entry.stat())
                except FileNotFoundError:  # removed since, as temporary files are
                    continue

    def walk(self, folder: str) -> Iterator[Stat]:
        return self._walk(folder, frozenset())

    def _walk(self, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[Stat]:
        """Links to folders are followed, but not around in a circle: `above` has the folders on the way here."""
        if not os.path.isdir(folder or "."):
            return
        here = os.stat(folder or ".")
        identity = (here.st_dev, here.st_ino)
        if identity in above:
            return
        for name, stat in self.list(folder):
            if stat is None:
                yield from self._walk(below(folder, name), above | {identity})
            else:
                yield stat

    def put(self, path: str, data: bytes, if_absent: bool) -> bool:
        temporary = new_temporary(os.path.dirname(path))
        try:
            Path(temporary).write_bytes(data)
            return self.put_file(path, temporary, if_absent)
        finally:
            remove_if_there(temporary)

    def put_file(self, path: str, file: str, if_absent: bool) -> bool:
        with open(file, "rb+") as stream:
            os.fsync(stream.fileno())
        if if_absent:
            if not _link(file, path):
                return False
        else:
            os.replace(file, path)
        _sync_folder(os.path.dirname(path))
        return True

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def remove_tree(self, folder: str) -> None:
        if os.path.isdir(folder):
            shutil.rmtree(folder)


def new_temporary(folder: str) -> str:
    """An empty file in `folder` (made where it is missing), with the rights that the user's umask gives."""
    os.makedirs(folder or ".", exist_ok=True)
    path = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o664))
    return path


def remove_if_there(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _stat(path: str, found: os.stat_result) -> Stat:
    return Stat(path, found.st_size, str(found.st_mtime_ns))


def _link(file: str, path: str) -> bool:
    """`path` becomes `file`, unless something is there."""
    try:
        os.link(file, path)
    except FileExistsError:
        return os.stat(file).st_nlink == 2  # over NFS the first answer may be lost: then the link there is ours
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(path):
            return False
        os.replace(file, path)
    return True


def _sync_folder(folder: str) -> None:
    """The new name survives a power cut too. Some network file systems cannot say so: nothing is lost by asking."""
    handle = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(handle)
