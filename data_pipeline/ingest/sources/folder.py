"""A folder of pictures, each with a sidecar NAME.txt or NAME.json beside it -> records, in the order of their paths.

In memory are the names of the folders that are open: those from the top down to one picture. With `frames` the pictures
of one folder are one record (clips.py).
"""

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from configs.errors import UserError
from configs.ingest import FolderSource
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.sources.clips import frames_of
from data_pipeline.ingest.sources.columns import MESSAGES
from data_pipeline.ingest.sources.found import Found
from data_pipeline.ingest.sources.record_images import PICTURE_ENDINGS, clean
from data_pipeline.ingest.sources.rows import BadRow, messages_of, parse_object, problem_of, singles, talk, text_of
from data_pipeline.sample import Reject
from data_pipeline.storage import glob, is_remote, join, read_bytes

T = TypeVar("T")
MOST_SIDECAR = 2**20
_SIDECARS = (".json", ".txt")
_AHEAD = 16
"""Sidecars of a remote folder that are on their way at a time."""


@dataclass(frozen=True)
class File:
    """A file below the folder: its path from there, bytes (-1: no plain file) and what changes with its content."""

    name: str
    size: int
    stamp: str


@dataclass(frozen=True)
class Pictured:
    """A picture, or the chosen frames of a folder, and the sidecar beside it. `name` is the picture's or folder's path."""

    name: str
    pictures: tuple[File, ...]
    sidecar: File | None


def find_folder(source: FolderSource) -> list[Found]:
    """The folder as one input. Its stamp is of the names, sizes and stamps of all files that matter."""
    path = source.path
    if not (is_remote(path) or os.path.isdir(path)):
        raise UserError(f"source.path {path} is not a folder: give a folder of pictures with sidecar texts")
    path = path.rstrip("/") if is_remote(path) else os.path.abspath(path)
    sha, size = hashlib.sha256(), 0
    for one in pictures_of(path, source.frames):
        for file in (*one.pictures, one.sidecar):
            if file is not None:
                sha.update(f"{file.name!a}\0{file.size}\0{file.stamp}\n".encode())
                size += max(0, file.size)
    return [Found(path, ".", "folder", size, sha.hexdigest())]


def folder_records(found: Found, frames: int | None) -> Iterator[Record]:
    """One record for each picture (or folder of frames); one without a usable sidecar says so."""
    return _ahead(lambda one: _record(found.path, one), pictures_of(found.path, frames), is_remote(found.path))


def _ahead(make: Callable[[Pictured], Record], items: Iterable[Pictured], remote: bool) -> Iterator[Record]:
    """`make` of each item, in order; of a remote folder several at a time."""
    if not remote:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(_AHEAD) as pool:
        coming: deque[Future[Record]] = deque()
        for item in items:
            coming.append(pool.submit(make, item))
            if len(coming) > 2 * _AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _record(folder: str, one: Pictured) -> Record:
    refs = tuple(ImageRef(join(folder, file.name), offset=0, size=file.size) for file in one.pictures)
    record = Record(refs, provenance={"file": one.name})
    for name in (one.name, *(file.name for file in one.pictures)):
        if not name.isascii() and clean(name) != name:
            problem = Reject("source", "bad_name", f"{name!a} is not UTF-8")
            return Record(provenance={"file": ascii(one.name)}, problem=problem)
    if not one.pictures:
        return replace(record, problem=Reject("source", "no_image", f"no picture in {one.name}"))
    if gone := next((file for file in one.pictures if file.size < 0), None):
        return replace(record, problem=Reject("source", "not_a_file", gone.name))
    if one.sidecar is None:
        return replace(record, problem=Reject("source", "no_sidecar"))
    return _said(record, folder, one.sidecar)


def _said(record: Record, folder: str, sidecar: File) -> Record:
    """The record with what the sidecar says."""
    if sidecar.size < 0:
        return replace(record, problem=Reject("source", "unreadable_sidecar", f"{sidecar.name} is no file"))
    if sidecar.size > MOST_SIDECAR:
        return replace(record, problem=Reject("source", "text_too_large", f"{sidecar.name} has {sidecar.size} bytes"))
    try:
        data = read_bytes(join(folder, sidecar.name))
    except OSError as error:
        return replace(record, problem=Reject("source", "unreadable_sidecar", type(error).__name__))
    if sidecar.name.endswith(".txt"):
        return replace(record, text=data.decode("utf-8-sig", "replace").strip())
    try:
        row = parse_object(data)
        record = replace(record, columns=singles(row))
        talks = next((name for name in MESSAGES if name in row), None)
        if talks is not None:
            return talk(record, record.images, messages_of(row[talks]))
        return replace(record, text=text_of(row.get("text", row.get("caption"))))
    except (BadRow, RecursionError) as error:
        return replace(record, problem=problem_of(error, "bad_json"))


def pictures_of(folder: str, frames: int | None = None) -> Iterator[Pictured]:
    """Pictures below a folder, sorted by the names on their paths; with `frames` its folders of pictures, of each so many.

    Links to folders are not followed.

    Raises:
        UserError: a folder may not be read.
    """
    if not is_remote(folder):
        yield from _walk(folder) if frames is None else _walk_clips(folder, frames)
        return
    # An object store lists in another order than that of names on a path, so all of them are in memory.
    start = len(folder.rstrip("/")) + 1
    files = [File(found.path[start:], found.size, found.stamp) for found in glob(f"{folder.rstrip('/')}/**")]
    beside = {file.name: file for file in files if file.name.endswith(_SIDECARS)}
    pictures = sorted((f for f in files if _is_picture(f.name)), key=lambda file: file.name.split("/"))
    if frames is None:
        for file in pictures:
            yield Pictured(file.name, (file,), _sidecar(os.path.splitext(file.name)[0], beside))
        return
    clips: dict[str, dict[str, File]] = {}
    for file in pictures:
        clips.setdefault(os.path.dirname(file.name), {})[file.name] = file
    for name in sorted(clips, key=lambda name: name.split("/")):
        chosen = tuple(clips[name][frame] for frame in frames_of(clips[name], frames))
        yield Pictured(name or ".", chosen, _sidecar(name, beside))


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_ENDINGS


def _sidecar(stem: str, beside: Mapping[str, T]) -> T | None:
    return next((beside[stem + ending] for ending in _SIDECARS if stem + ending in beside), None)


def _walk(top: str) -> Iterator[Pictured]:
    stack = [_listed(top, "")]
    while stack:
        below, entries, beside = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
        elif entry.is_dir(follow_symlinks=False):
            stack.append(_listed(entry.path, f"{below}{entry.name}/"))
        else:
            sidecar = _sidecar(os.path.splitext(entry.name)[0], beside)
            picture = _file(entry, below)
            yield Pictured(picture.name, (picture,), None if sidecar is None else _file(sidecar, below))


def _walk_clips(top: str, frames: int) -> Iterator[Pictured]:
    """Folders that hold pictures, or are spoken of by a sidecar beside them."""
    stack: list[tuple[str, str, File | None]] = [(top, "", None)]
    while stack:
        path, below, sidecar = stack.pop()
        _, listed, beside = _listed(path, below)
        entries = list(listed)
        pictures = {entry.name: entry for entry in entries if not entry.is_dir(follow_symlinks=False)}
        if pictures or sidecar:
            chosen = tuple(_file(pictures[name], below) for name in frames_of(pictures, frames))
            yield Pictured(below.rstrip("/") or ".", chosen, sidecar)
        for entry in reversed(entries):
            if entry.name not in pictures:
                said = _sidecar(entry.name, beside)
                stack.append((entry.path, f"{below}{entry.name}/", None if said is None else _file(said, below)))


def _listed(folder: str, below: str) -> tuple[str, Iterator[os.DirEntry[str]], dict[str, os.DirEntry[str]]]:
    """Folders and pictures of one folder in order, and its sidecars by name."""
    entries, beside = [], {}
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.endswith(_SIDECARS):
                    beside[entry.name] = entry
                if entry.is_dir(follow_symlinks=False) or _is_picture(entry.name):
                    entries.append(entry)
    except PermissionError:
        raise UserError(f"folder {folder} may not be read: change its permissions, or give another folder") from None
    return below, iter(sorted(entries, key=lambda entry: entry.name)), beside


def _file(entry: os.DirEntry[str], below: str) -> File:
    try:
        found = entry.stat()
    except OSError:  # a link to nowhere
        return File(below + entry.name, -1, "")
    size = found.st_size if stat.S_ISREG(found.st_mode) else -1
    return File(below + entry.name, size, str(found.st_mtime_ns))
