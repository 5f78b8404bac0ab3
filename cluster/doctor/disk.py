"""File systems under the folders that a job uses: kind, space, inodes; and shared memory."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.doctor.findings import Finding, gigabytes
from configs.mounts import file_system, is_network

LEAST_GB, ENOUGH_GB = 2.0, 20.0
LEAST_INODES = 100_000
SHARED_GB = 1.0
"""Batches travel from a node's reading processes through /dev/shm."""


def check_disks(folders: Sequence[str] = (".",)) -> Iterator[Finding]:
    """The given folders, the one for temporary files, the user's cache, and /dev/shm."""
    for folder in folders:
        yield check_folder("disk", folder, network_is_fine=True)
    yield check_folder("temporary files", tempfile.gettempdir(), network_is_fine=False)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    yield check_folder("cache", cache, network_is_fine=True)
    yield check_shared_memory()


def check_folder(name: str, folder: str, network_is_fine: bool) -> Finding:
    """Space and inodes that this user gets, the kind of file system, whether it can be written to."""
    place = Path(os.path.abspath(folder))
    while not place.exists():
        place = place.parent
    try:
        told = os.statvfs(place)
    except OSError as error:
        return Finding(name, "fail", f"{folder}: {error.strerror}", "mount it, or name another with --folder")
    free, total = told.f_bavail * told.f_frsize, told.f_blocks * told.f_frsize
    kind = file_system(place)
    figures = {"folder": folder, "kind": kind, "free": free, "total": total, "free_inodes": told.f_favail}
    counted = f", {told.f_favail:,} inodes free" if told.f_files else ""
    said = f"{folder}: {gigabytes(free)} free of {gigabytes(total)}{counted}, {kind or 'of an unknown kind'}"
    if not os.access(place, os.W_OK):
        return Finding(name, "fail", f"{said}; not writable", f"give yourself the right to write to {place}", figures)
    if free < LEAST_GB * 1e9:
        return Finding(name, "fail", said, "free some: a checkpoint that does not fit ends the run", figures)
    if told.f_files and told.f_favail < LEAST_INODES:
        fix = "remove small files: datasets of looksay are a few large ones, unpacked pictures are not"
        return Finding(name, "warn", said, fix, figures)
    if is_network(place) and not network_is_fine:
        fix = "set TMPDIR to a local disk: sockets and locks of torch and Ray lie there"
        return Finding(name, "warn", f"{said}: a network's file system", fix, figures)
    if is_network(place):
        said += " (of a network: nothing is mapped or locked there)"
    if free < ENOUGH_GB * 1e9:
        fix = "enough for a small run: `looksay estimate` says what checkpoints take, checkpoint.keep_last limits them"
        return Finding(name, "warn", said, fix, figures)
    return Finding(name, "ok", said, figures=figures)


def check_shared_memory(folder: str = "/dev/shm") -> Finding:
    try:
        told = os.statvfs(folder)
    except OSError:
        return Finding("shared memory", "fail", f"no {folder}", f"mount a tmpfs at {folder}")
    free = told.f_bavail * told.f_frsize
    said, figures = f"{folder}: {gigabytes(free)} free", {"free": free}
    if free >= SHARED_GB * 1e9:
        return Finding("shared memory", "ok", said, figures=figures)
    fix = "start the container with --ipc=host or --shm-size=8g, or remove what others left there"
    return Finding("shared memory", "warn", said, fix, figures)
