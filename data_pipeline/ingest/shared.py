"""A dataset on a shared machine: how many inodes it takes of a quota, and whether the user's group can read it."""

import os
import stat
from dataclasses import dataclass

from data_pipeline.storage import is_remote


@dataclass(frozen=True)
class Shared:
    """`inodes`: files and folders, the dataset's own among them. `hidden`: the first of them that the group cannot read."""

    inodes: int
    hidden: str | None

    @property
    def said(self) -> str:
        """A sentence's end, and a line more where others cannot read."""
        closed = f"\nnote: your group cannot read {self.hidden} (umask); to share: chmod -R g+rX" if self.hidden else ""
        return f"{self.inodes:,} inodes{closed}"


def shared(folder: str) -> Shared | None:
    """Of a local dataset; None where it is in an object store, which has neither."""
    if is_remote(folder):
        return None
    inodes, hidden = 0, None
    for place, _, names in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in names)):
            inodes += 1
            mode = os.lstat(path).st_mode
            needed = stat.S_IRGRP | stat.S_IXGRP if stat.S_ISDIR(mode) else stat.S_IRGRP
            if hidden is None and mode & needed != needed:
                hidden = path
    return Shared(inodes, hidden)
