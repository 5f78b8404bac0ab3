"""A folder of this user and job on the node's own disk: what two jobs on a node, or two users, must not share."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from configs.errors import RunError

LONGEST = 40
"""Unix sockets have paths of at most 107 bytes, and Ray adds sixty."""
CACHES = {
    "TORCH_EXTENSIONS_DIR": "torch-extensions",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "NUMBA_CACHE_DIR": "numba",
    "CUDA_CACHE_PATH": "kernels",
}


def job_folder(job: str) -> Path:
    """The folder of a job; made for this user alone.

    Raises:
        RunError: it belongs to somebody else.
    """
    base = tempfile.gettempdir()
    path = Path(base if len(base) < LONGEST - 24 else "/tmp") / f"looksay-{os.getuid()}-{job}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or not path.is_dir() or path.is_symlink() or found.st_mode & 0o077:
        raise RunError(f"{path} is not this user's alone, although its name says so: remove it, or set TMPDIR")
    return path


def forget(job: str) -> None:
    """The job is done: its folder goes."""
    shutil.rmtree(job_folder(job), ignore_errors=True)


def cache_environment(environ: Mapping[str, str], job: str) -> dict[str, str]:
    """Where libraries keep what they compile: code that is loaded, and locked while it is built, which NFS is bad at.

    What the environment says already stays: a site may have a better place that outlives jobs.
    """
    return {name: str(job_folder(job) / part) for name, part in CACHES.items() if name not in environ}
