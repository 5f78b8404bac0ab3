"""Round trip of a folder or an s3:// URL, by the way that datasets and checkpoints take: put, read back, range, remove."""

import os
import time
import uuid

from cluster.doctor.findings import Finding
from configs.errors import RunError, UserError
from data_pipeline.storage import is_remote, join, put, read_bytes, read_range, remove

SIZE, QUICK_SIZE = 64 * 2**20, 8 * 2**20
SLOW, SLOW_SECONDS = 50e6, 0.2


def check_storage(folder: str, quick: bool) -> Finding:
    """A file of random bytes written, synced, read back and compared. Its figures: bytes per second, seconds of a small read."""
    size, name = QUICK_SIZE if quick else SIZE, join(folder, f"looksay-doctor-{uuid.uuid4().hex}")
    data, label = os.urandom(size), f"storage {folder}"
    try:
        start = time.perf_counter()
        put(name, data)
        written = time.perf_counter()
        back = read_bytes(name)
        done = time.perf_counter()
        part = read_range(name, size // 2, 4096)
        ranged = time.perf_counter() - done
    except (OSError, RunError, UserError) as error:
        fix = "check the address, your keys and rights" if is_remote(folder) else "check the path and its permissions"
        return Finding(label, "fail", f"{' '.join(str(error).split())[:300]}", fix)
    finally:
        _tidy(name)
    figures = {"write": size / (written - start), "read": size / (done - written), "small_read_seconds": ranged}
    said = f"writes {figures['write'] / 1e6:,.0f} MB/s, reads {figures['read'] / 1e6:,.0f} MB/s, a small read takes {ranged * 1e3:.1f} ms"
    if back != data or part != data[size // 2 : size // 2 + 4096]:
        return Finding(
            label, "fail", "what was read is not what was written", "do not use it; tell its administrator", figures
        )
    if figures["write"] < SLOW or ranged > SLOW_SECONDS:
        fix = "checkpoints will take long: choose checkpoint.every by `looksay estimate --simulate`, and data.read.cache on a local disk"
        return Finding(label, "warn", said, fix, figures)
    return Finding(label, "ok", said, figures=figures)


def _tidy(name: str) -> None:
    try:
        remove(name)
    except (OSError, RunError, UserError) as error:
        print(f"looksay: {name} could not be removed ({error}): remove it by hand")
