"""What was fetched, on the node's disk, for all its ranks: plain files, no daemon, no lock, nothing to clean up.

    FOLDER/looksay-UID/DATASET/xx/TAR-START      bytes of one sample, as they lie in the tar

A file appears by rename, so it is whole or not there. Whoever writes keeps the folder below its limit: what was read
longest ago goes first (a read touches its file). A killed process leaves at worst a temporary file, which the next sweep removes.
"""

import contextlib
import hashlib
import os
import random
import tempfile
import time
from pathlib import Path

from configs.errors import UserError

SWEEP_EVERY = 256
"""Writes of a process between two looks at the size of the folder."""
STALE_SECONDS = 600.0
LOW_WATER = 0.9
TEMPORARY = ".part-"


class DiskCache:
    """A cache folder with a limit.

    Raises:
        UserError: it cannot be made or written.
    """

    def __init__(self, folder: str, identity: str, limit_gb: float):
        self.root = Path(folder) / f"looksay-{os.getuid()}"
        self.folder, self.limit = self.root / identity[:16], int(limit_gb * 1e9)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(
                f"data.read.cache {folder} cannot be used ({error}): give a folder on a local disk"
            ) from None
        self._writes = random.randrange(SWEEP_EVERY)  # ranks that start together do not sweep together

    def _path(self, tar: str, start: int) -> Path:
        name = hashlib.sha256(f"{tar}\0{start}".encode()).hexdigest()
        return self.folder / name[:2] / name[2:32]

    def get(self, tar: str, start: int, size: int) -> bytes | None:
        """The `size` bytes from `start` of a tar, if they are here."""
        path = self._path(tar, start)
        try:
            data = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        return data if len(data) == size else None

    def put(self, tar: str, start: int, data: bytes | memoryview) -> None:
        """Keep bytes. A full disk is no error: they are fetched again some other time."""
        path = self._path(tar, start)
        if self.limit < len(data):
            return
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=TEMPORARY, delete=False) as stream:
                stream.write(data)
            os.replace(stream.name, path)
        self._writes += 1
        if self._writes % SWEEP_EVERY == 0:
            self.sweep()

    def drop(self, tar: str, start: int) -> None:
        """Forget bytes that turned out to be wrong."""
        self._path(tar, start).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what was read longest ago until the folder is below its limit. Returns its bytes then."""
        found: list[tuple[float, int, str]] = []
        now = time.time()
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):  # another rank removed it
                    stat = os.stat(path)
                    if name.startswith(TEMPORARY):
                        if now - stat.st_mtime > STALE_SECONDS:
                            os.unlink(path)
                        continue
                    found.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= self.limit:
            return total
        for _, size, path in sorted(found):
            if total <= LOW_WATER * self.limit:
                break
            Path(path).unlink(missing_ok=True)
            total -= size
        return total
