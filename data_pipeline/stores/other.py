"""What else fsspec knows (gs, az, hf, https, memory): as it comes. `if_absent` only looks before it puts."""

from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from configs.errors import UserError
from data_pipeline.stores.store import Stat, base_name, without_secrets

BLOCK = 4 * 2**20
STAMPS = ("ETag", "etag", "md5Hash", "sha256", "oid", "mtime", "last_modified", "LastModified", "created")


class OtherStore:
    def read(self, path: str) -> bytes:
        filesystem, target = _filesystem(path)
        return cast(bytes, filesystem.cat_file(target))

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        filesystem, target = _filesystem(path)
        return cast(bytes, filesystem.cat_file(target, start=offset, end=offset + size))

    def read_tail(self, path: str, size: int) -> bytes:
        stat = self.stat(path)
        if stat is None:
            raise FileNotFoundError(f"{path} does not exist")
        return self.read_range(path, max(0, stat.size - size), min(size, stat.size))

    def open(self, path: str) -> BinaryIO:
        filesystem, target = _filesystem(path)
        return cast(BinaryIO, filesystem.open(target, "rb", block_size=BLOCK))

    def stat(self, path: str) -> Stat | None:
        filesystem, target = _filesystem(path)
        try:
            info = filesystem.info(target)
        except FileNotFoundError:
            return None
        return _stat(path, info) if info["type"] == "file" else None

    def exists(self, path: str) -> bool:
        filesystem, target = _filesystem(path)
        return bool(filesystem.exists(target))

    def list(self, folder: str, prefix: str = "") -> Iterator[tuple[str, Stat | None]]:
        filesystem, target = _filesystem(folder)
        if not filesystem.isdir(target):
            return
        for info in filesystem.ls(target, detail=True):
            name = base_name(str(info["name"]))
            if name.startswith(prefix):
                yield name, None if info["type"] == "directory" else _stat(f"{folder.rstrip('/')}/{name}", info)

    def walk(self, folder: str) -> Iterator[Stat]:
        for name, stat in self.list(folder):
            if stat is None:
                yield from self.walk(f"{folder.rstrip('/')}/{name}")
            else:
                yield stat

    def put(self, path: str, data: bytes, if_absent: bool) -> bool:
        filesystem, target = _filesystem(path)
        if if_absent and filesystem.exists(target):
            return False
        filesystem.pipe_file(target, data)
        return True

    def put_file(self, path: str, file: str, if_absent: bool) -> bool:
        filesystem, target = _filesystem(path)
        if if_absent and filesystem.exists(target):
            return False
        filesystem.put_file(file, target)
        return True

    def remove(self, path: str) -> None:
        filesystem, target = _filesystem(path)
        if filesystem.exists(target):
            filesystem.rm_file(target)

    def remove_tree(self, folder: str) -> None:
        filesystem, target = _filesystem(folder)
        if filesystem.exists(target):
            filesystem.rm(target, recursive=True)


def _filesystem(path: str) -> tuple[Any, str]:
    """Raises UserError for a scheme that nobody knows, or whose package is missing."""
    import fsspec

    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(path))
    except (ImportError, ValueError) as error:
        raise UserError(f"{without_secrets(path)}: {error}: check the path's scheme, or install its package") from None


def _stat(path: str, info: dict[str, Any]) -> Stat:
    stamp = next((str(info[name]).strip('"') for name in STAMPS if info.get(name)), "")
    return Stat(path, int(info.get("size") or 0), stamp)
