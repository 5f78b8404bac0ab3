"""What was fetched, on the node's disk, for all its ranks: plain files, no daemon, no lock, nothing to clean up.

    FOLDER/looksay-UID/PARTS/xx/HASH      bytes of one sample, as they lie in the tar; or an index, and its hash

A file appears by rename, so it is whole or not there. Files are spread evenly over PARTS folders, each below its share of the
limit: whoever writes looks at one folder now and then, and what was read longest ago goes first (a read touches its
file). A killed process leaves at worst a temporary file, which the next look removes.
"""

import contextlib
import hashlib
import os
import random
import shutil
import time
from pathlib import Path

from configs.errors import UserError
from data_pipeline.stream.read.members import digest

PART_BYTES = 256_000_000
MOST_PARTS = 256
"""A look lists one part: some thousand files, however large the cache is."""
LOOK_EVERY = 1 / 128
"""Of a part's share: so much is written by a process between two looks at it."""
LOW_WATER = 0.9
STALE_SECONDS, UNUSED_SECONDS = 600.0, 3600.0
"""Age of a temporary file that nobody writes any more, and of folders made under another limit."""
TEMPORARY = ".part-"
DISK_BLOCK = 4096
HASH_BYTES = 8


class DiskCache:
    """A cache folder with a limit. A disk that fails costs time, never the job: bytes are fetched again.

    Args:
        identity: of the dataset's content.

    Raises:
        UserError: it cannot be made.
    """

    def __init__(self, folder: str, identity: str, limit_gb: float):
        self.identity, limit = identity, int(limit_gb * 1e9)
        self.parts = max(1, min(MOST_PARTS, limit // PART_BYTES))
        self.share = limit // self.parts
        self.root = Path(folder) / f"looksay-{os.getuid()}"
        self.folder = self.root / f"{self.parts}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(
                f"data.read.cache {folder} cannot be used ({error}): give a folder on a local disk"
            ) from None
        # Ranks that start together do not look together, and short processes look now and then too.
        self._grown = [random.random() * LOOK_EVERY * self.share for _ in range(self.parts)]
        self._remove_unused()

    def _place(self, tar: str, start: int) -> tuple[int, Path]:
        name = hashlib.sha256(f"{self.identity}\0{tar}\0{start}".encode()).hexdigest()
        part = int(name[:8], 16) % self.parts
        return part, self.folder / f"{part:02x}" / name[8:40]

    def get(self, tar: str, start: int, size: int) -> bytes | None:
        """The `size` bytes from `start` of a tar, if they are here. They may be worn: the caller checks them."""
        data = self._read(self._place(tar, start)[1])
        return data if data is not None and len(data) == size else None

    def get_whole(self, path: str) -> bytes | None:
        """A file that was kept whole."""
        place = self._place(path, -1)[1]
        data = self._read(place)
        if data is None:
            return None
        if digest(data[:-HASH_BYTES]) == int.from_bytes(data[-HASH_BYTES:], "little") and len(data) >= HASH_BYTES:
            return data[:-HASH_BYTES]
        self.drop(path, -1)
        return None

    def put_whole(self, path: str, data: bytes) -> None:
        self.put(path, -1, data + digest(data).to_bytes(HASH_BYTES, "little"))

    def put(self, tar: str, start: int, data: bytes | memoryview) -> None:
        """Keep bytes, if they fit."""
        if _on_disk(len(data)) > self.share:
            return
        part, path = self._place(tar, start)
        temporary = path.parent / f"{TEMPORARY}{os.urandom(8).hex()}"
        try:
            path.parent.mkdir(exist_ok=True)
            with open(temporary, "xb") as stream:
                stream.write(data)
            os.replace(temporary, path)
        except OSError:  # most of all a full disk
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        self._grown[part] += _on_disk(len(data))
        if self._grown[part] > LOOK_EVERY * self.share:
            self._grown[part] = 0.0
            self.sweep(part)

    def drop(self, tar: str, start: int) -> None:
        """Forget bytes that turned out to be wrong."""
        with contextlib.suppress(OSError):
            self._place(tar, start)[1].unlink()

    def sweep(self, part: int) -> int:
        """Remove what was read longest ago from a part that has more than its share. Returns its bytes then."""
        found: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self.folder / f"{part:02x}") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another rank removed it
                    stat = entry.stat()
                    if not entry.name.startswith(TEMPORARY):
                        found.append((stat.st_mtime, _on_disk(stat.st_size), entry.path))
                    elif time.time() - stat.st_mtime > STALE_SECONDS:
                        os.unlink(entry.path)
        total = sum(size for _, size, _ in found)
        if total <= self.share:
            return total
        for _, size, path in sorted(found):
            if total <= LOW_WATER * self.share:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
        return total

    def _read(self, path: Path) -> bytes | None:
        try:
            data = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def _remove_unused(self) -> None:
        """Folders of another limit, once nobody writes there."""
        with contextlib.suppress(OSError):
            for other in self.root.iterdir():
                if other != self.folder and other.is_dir():
                    last = max(path.stat().st_mtime for path in (other, *other.iterdir()))
                    if time.time() - last > UNUSED_SECONDS:
                        shutil.rmtree(other, ignore_errors=True)


def _on_disk(size: int) -> int:
    return -(-size // DISK_BLOCK) * DISK_BLOCK
