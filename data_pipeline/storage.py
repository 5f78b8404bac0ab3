"""Bytes in and out: local paths directly, everything with a `scheme://` through fsspec (s3fs for s3).

A write becomes visible at its name only when it is whole: locally temp file + fsync + rename, on object stores the
single put (or completed multipart upload) that they make atomic.
"""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.errors import RunError

TEMPORARY = ".looksay-"
"""Prefix of files that are being written; one that a killed process left behind is nobody's."""


def is_remote(path: str) -> bool:
    return "://" in path


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def _filesystem(path: str) -> Any:
    import fsspec

    return fsspec.core.url_to_fs(path)


def put(path: str, data: bytes) -> None:
    """Write `data` at `path`, whole or not at all."""
    put_file(path, lambda target: Path(target).write_bytes(data))


def put_file(path: str, write: Callable[[str], Any]) -> None:
    """Let `write` fill a temporary local file, then publish it at `path` in one step.

    Raises:
        RunError: no space is left; nothing half-written remains.
    """
    folder = tempfile.gettempdir() if is_remote(path) else os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
    os.close(handle)
    try:
        write(temporary)
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        if is_remote(path):
            filesystem, target = _filesystem(path)
            filesystem.put_file(temporary, target)
        else:
            os.chmod(temporary, 0o664 & ~_umask())
            os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunError(
                f"no space is left for {path}: free some or choose another folder; nothing was changed"
            ) from None
        raise
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_bytes(path: str) -> bytes:
    if is_remote(path):
        filesystem, target = _filesystem(path)
        return filesystem.cat_file(target)
    return Path(path).read_bytes()


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`; fewer at the end of the file."""
    if is_remote(path):
        filesystem, target = _filesystem(path)
        return filesystem.cat_file(target, start=offset, end=offset + size)
    with open(path, "rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def exists(path: str) -> bool:
    if is_remote(path):
        filesystem, target = _filesystem(path)
        return bool(filesystem.exists(target))
    return os.path.exists(path)


def listdir(folder: str) -> list[str]:
    """Names in a folder, sorted; empty where there is no folder."""
    if is_remote(folder):
        filesystem, target = _filesystem(folder)
        if not filesystem.exists(target):
            return []
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in filesystem.ls(target, detail=False))
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
