"""Which file system a path is on: on those of a network nothing is mapped into memory or locked.

A mapped page that cannot be read kills the process (SIGBUS), and a lock there may be none, or may wait for ever.
"""

import os
from pathlib import Path

NETWORK = frozenset(
    ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse", "smb3", "cifs", "9p", "afs", "panfs", "wekafs")
    + ("pvfs2", "orangefs", "glusterfs", "virtiofs", "daos")
)
"""Types by the part before the first dot (fuse.sshfs is fuse): network and user-space file systems."""
NO_MAPPING = "LOOKSAY_NO_MAPPING"
"""Set to 1 where a network's file system hides behind a local one's type (an overlay, a loop device)."""


def file_system(path: str | Path, mounts: str = "/proc/mounts") -> str:
    """Type of the file system that holds `path`; empty where the system does not say."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    real, best, kind = os.path.realpath(path), "", ""
    for line in lines:
        fields = line.split(" ")
        place = fields[1].replace("\\040", " ") if len(fields) > 2 else ""
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if place and inside and len(place) >= len(best):
            best, kind = place, fields[2]
    return kind


def is_network(path: str | Path) -> bool:
    """Whether files there should not be mapped or locked."""
    return os.environ.get(NO_MAPPING) == "1" or file_system(path).split(".")[0] in NETWORK
