"""Bytes in and out: local paths, s3://, and whatever else fsspec knows. The only way to storage for the whole house.

A write becomes visible at its name only when it is whole: locally temp file + fsync + rename, on object stores the
single put (or completed multipart upload) that they make atomic. Everything that waits has a time limit.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from configs.errors import UserError
from data_pipeline.stores.client import Settings
from data_pipeline.stores.globbing import glob as glob_in
from data_pipeline.stores.local import FULL, TEMPORARY, LocalStore, new_temporary, remove_if_there
from data_pipeline.stores.other import OtherStore
from data_pipeline.stores.s3 import S3Store
from data_pipeline.stores.store import Stat, Store, no_space

if TYPE_CHECKING:
    from configs.ingest import StorageConfig

__all__ = ["TEMPORARY", "Stat"]  # and all below

S3_SCHEMES = ("s3://", "s3a://")
LOCAL_SCHEMES = ("file://", "local://")

_local, _other = LocalStore(), OtherStore()


class _Configured:
    """Where s3:// is for this process, and the store that was made for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.settings = Settings()
        self.keys = 0
        self.s3: S3Store | None = None

    def store(self) -> S3Store:
        with self.lock:
            if self.s3 is None:
                self.s3 = S3Store(self.settings)
            return self.s3


_configured = _Configured()


def _after_fork() -> None:
    """A child has no thread that serves its parent's connection: it makes its own."""
    _configured.lock, _configured.s3 = threading.Lock(), None


os.register_at_fork(after_in_child=_after_fork)


def configure(config: "StorageConfig") -> None:
    """Say, for this process, where `s3://` is. What is set here goes before AWS_* in the environment.

    Raises:
        UserError: a value that cannot work.
    """
    settings = Settings(config.endpoint_url, config.profile, config.region, config.ca_bundle, config.path_style)
    keys = hash(tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))))
    with _configured.lock:
        if (settings, keys) != (_configured.settings, _configured.keys):
            _configured.settings, _configured.keys, _configured.s3 = settings, keys, None


def known_to_answer(path: str) -> None:
    """What is at `path` was there before: a store that does not answer now is waited for as long as one that did."""
    if path.startswith(S3_SCHEMES):
        _configured.store().client.patience.answered = True


def is_remote(path: str) -> bool:
    return "://" in path


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def _place(path: str) -> tuple[Store, str]:
    if not is_remote(path):
        return _local, path
    if path.startswith(LOCAL_SCHEMES):
        return _local, path.split("://", 1)[1]
    return (_configured.store() if path.startswith(S3_SCHEMES) else _other), path


def put(path: str, data: bytes, *, if_absent: bool = False) -> bool:
    """Write `data` at `path`, whole or not at all. Returns and raises as `put_file`."""
    store, target = _place(path)
    with _room_for(path):
        return store.put(target, data, if_absent)


def put_file(path: str, write: Callable[[str], Any], *, if_absent: bool = False) -> bool:
    """Let `write` fill a temporary local file, then publish it at `path` in one step.

    Returns:
        False: `if_absent` was asked for and something is there; it stays as it is. Of several that put at one path
        with `if_absent`, exactly one gets True (not promised by stores other than local ones and S3).

    Raises:
        RunError: no space is left, or the store failed for too long; nothing half-written remains.
        UserError: the store refuses.
    """
    store, target = _place(path)
    folder = os.path.dirname(target) if store is _local else tempfile.gettempdir()
    with _room_for(path, "" if store is _local else f"made in {folder} first"):
        temporary = new_temporary(folder)
        try:
            write(temporary)
            return store.put_file(target, temporary, if_absent)
        finally:
            remove_if_there(temporary)


@contextlib.contextmanager
def _room_for(path: str, where: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise no_space(path, where) from None
        raise


def read_bytes(path: str) -> bytes:
    store, target = _place(path)
    return store.read(target)


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`; fewer at the end of the file."""
    store, target = _place(path)
    return store.read_range(target, offset, size)


def read_tail(path: str, size: int) -> bytes:
    """The last `size` bytes; fewer where the file is shorter."""
    store, target = _place(path)
    return store.read_tail(target, size)


def open_stream(path: str) -> BinaryIO:
    """The file from its start, to be read in order (it can seek, at a cost); at most 16 MiB of it in memory."""
    store, target = _place(path)
    return store.open(target)


def size_of(path: str) -> int:
    """Bytes of a file."""
    return stat_of(path).size


def stat_of(path: str) -> Stat:
    """Raises FileNotFoundError where no file is."""
    store, target = _place(path)
    stat = store.stat(target)
    if stat is None:
        raise FileNotFoundError(f"{path} does not exist")
    return stat


def exists(path: str) -> bool:
    """A file or a folder."""
    store, target = _place(path)
    return store.exists(target)


def listdir(folder: str) -> list[str]:
    """Names in a folder, sorted; empty where there is no folder."""
    store, target = _place(folder)
    return sorted(name for name, _ in store.list(target))


def glob(pattern: str) -> list[Stat]:
    """Files that match, sorted by path: `*`, `?`, `[]`, `**`, and braces `{a,b}`, `{000..999}`.

    Raises:
        UserError: a file that braces name without a wildcard is missing; a folder may not be read.
    """
    store, target = _place(pattern)
    try:
        return glob_in(store, target)
    except PermissionError as error:
        raise UserError(f"{pattern}: {error.filename or 'a folder'} may not be read: check its permissions") from None


def remove(path: str) -> None:
    """Remove a file; nothing happens where there is none."""
    store, target = _place(path)
    store.remove(target)


def remove_tree(folder: str) -> None:
    """Remove a folder and all below it; nothing happens where there is none."""
    store, target = _place(folder)
    store.remove_tree(target)
