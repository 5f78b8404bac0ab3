"""The planner's view of a source: which files there are, how many rows each has, and where the rows can be read.

`find_inputs` looks at names only. `list_input` looks into one file, as a task of its own: parquet and Arrow files are
read in place later, of every other kind the rows are spooled once, in memory of a row group.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from configs.errors import UserError
from configs.ingest import CocoSource, EasyVqaSource, FolderSource, Source, TableSource, WebdatasetSource
from data_pipeline.ingest.record import Record
from data_pipeline.ingest.sources.coco import coco_records
from data_pipeline.ingest.sources.easy_vqa import easy_vqa_records, find_easy_vqa
from data_pipeline.ingest.sources.finding import TABLES, TARS, check_path, find_files
from data_pipeline.ingest.sources.folder import find_folder, folder_records
from data_pipeline.ingest.sources.found import Found, Input
from data_pipeline.ingest.sources.record_images import Root
from data_pipeline.ingest.sources.spool import SPOOL_GROUP, canonical, write_spool
from data_pipeline.ingest.sources.tars import tar_records
from data_pipeline.ingest.sources.text_tables import text_records
from data_pipeline.storage import is_remote, stat_of

IN_PLACE = frozenset({"parquet", "arrow"})
ROOTED = frozenset({"json", "jsonl", "coco"})
"""Kinds whose plain paths are below the file's own folder, where the recipe names none."""


def find_inputs(source: Source) -> list[Found]:
    """The files of a source, in its order.

    Raises:
        UserError: one is missing, a pattern matches nothing, or something may not be read.
    """
    try:
        if isinstance(source, FolderSource):
            return find_folder(source)
        if isinstance(source, EasyVqaSource):
            return find_easy_vqa(source)
        if isinstance(source, CocoSource):
            return [_coco(source)]
        if source_root := getattr(source, "image_root", None):
            check_path(source_root)
        if isinstance(source, WebdatasetSource):
            return find_files(_paths(source.path), TARS)
        return find_files(_paths(source.path), TABLES, source.format)
    except OSError as error:
        raise _unreadable(describe(source), error) from None


def _paths(path: str | tuple[str, ...]) -> tuple[str, ...]:
    return (path,) if isinstance(path, str) else path


def _coco(source: CocoSource) -> Found:
    check_path(source.path)
    path = source.path if is_remote(source.path) else os.path.abspath(source.path)
    try:
        stat = stat_of(path)
    except FileNotFoundError:
        raise UserError(f"source.path {source.path} does not exist: give a JSON file of COCO captions") from None
    return Found(path, path.rsplit("/", 1)[-1], "coco", stat.size, stat.stamp)


def list_input(source: Source, found: Found, spool: str) -> Input:
    """Count the rows of a file and say what they are; rows that cannot be read in place go to `spool`.

    Raises:
        UserError: the file cannot be read as what it is, or lacks what the recipe asks for.
    """
    if isinstance(source, TableSource) and found.kind in IN_PLACE:
        from data_pipeline.ingest.sources.tables import list_table

        try:
            return list_table(source, found)
        except OSError as error:
            raise _unreadable(found.shown, error) from None
    root, sha = root_of(source, found), hashlib.sha256()
    base = (root.path or "") if found.kind in ("json", "jsonl", "csv", "tsv", "coco") else found.path

    def hashed() -> Iterator[Record]:
        for record in _readable(found, _records(source, found, root)):
            sha.update(canonical(record, base))
            yield record

    rows = write_spool(spool, hashed(), SPOOL_GROUP, base)
    return Input(found, rows, sha.hexdigest(), spool)


def root_of(source: Source, found: Found) -> Root:
    """The folder that plain paths in a file are below."""
    path = getattr(source, "image_root", None)
    if path is None and found.kind in ROOTED:
        path = os.path.dirname(found.path)
    return Root(path)


def _records(source: Source, found: Found, root: Root) -> Iterator[Record]:
    if isinstance(source, FolderSource):
        return folder_records(found, source.frames)
    if isinstance(source, EasyVqaSource):
        return easy_vqa_records(source, found)
    if isinstance(source, CocoSource):
        return coco_records(source, found, root)
    if isinstance(source, WebdatasetSource):
        return tar_records(found, source.text_field)
    if found.kind == "tar":
        if source.where:
            raise UserError(f"source.where is for tables, and {found.shown} is a tar: use filters.where")
        return tar_records(found, source.text_column)
    return text_records(source, found, root)


def _readable(found: Found, records: Iterator[Record]) -> Iterator[Record]:
    """The records; what the system says while they are read becomes a sentence."""
    try:
        yield from records
    except OSError as error:
        raise _unreadable(found.shown, error) from None


def _unreadable(what: str, error: OSError) -> UserError:
    if isinstance(error, PermissionError):
        return UserError(f"{what} may not be read: give this user the right to, or other keys")
    if isinstance(error, FileNotFoundError):
        return UserError(f"{what} does not exist: check source.path")
    return UserError(f"{what} cannot be read ({error.strerror or error}): check the file and its disk or server")


def anchored(source: Source) -> Source:
    """The source with whole paths: workers do not stand in our working folder."""
    whole: dict[str, Any] = {}
    for name in ("path", "image_root"):
        value = getattr(source, name, None)
        if isinstance(value, str):
            whole[name] = _whole(value)
        elif isinstance(value, tuple):
            whole[name] = tuple(_whole(path) for path in value)
    return source.model_copy(update=whole)


def _whole(path: str) -> str:
    return path if is_remote(path) or path.startswith("package:") else os.path.abspath(path)


def describe(source: Source) -> str:
    """The source in a sentence."""
    if isinstance(source, EasyVqaSource):
        return f"{source.type}/{source.split}"
    return ", ".join(path.split("?")[0] if "://" in path else path for path in _paths(source.path))
