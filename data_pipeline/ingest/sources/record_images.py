"""Image values out of data -> where the bytes are, or why they are not read.

What a column or a JSON file says is not trusted: URLs of a few schemes stay URLs (the fetcher guards them), `file:`
is always refused, and a plain path is read only below `image_root`, symlinks resolved.
"""

import os
import re
import stat
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from data_pipeline.ingest.record import ImageRef
from data_pipeline.sample import Reject
from data_pipeline.storage import is_remote, join

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
SCHEMES = frozenset({"http", "https", "s3", "gs", "hf"})
HERE: Any = object()
"""Stands for bytes that lie in the table itself and are not read yet."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with halves of surrogate pairs replaced: they have no place in UTF-8."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


class Root:
    """The folder that plain paths are below (a local path or a URL); None: no plain path is read."""

    def __init__(self, path: str | None):
        self.path = path
        if path is not None and not is_remote(path):
            self.path = os.path.abspath(path)
            self.inside = os.path.realpath(path).rstrip("/") + "/"

    def refer(self, text: str) -> ImageRef | Reject:
        """A URL, or a path below the root."""
        text = clean(text.strip())
        if not text:
            return Reject("source", "no_image", "the picture's path is empty")
        scheme = _SCHEME.match(text)
        if scheme is not None:
            return self._url(text, scheme[1].lower())
        if "\0" in text or ".." in text.split("/"):
            return self._outside(text)
        if self.path is None:
            return Reject(
                "source", "no_image_root", f"{_short(text)} is a path: say with image_root what folder it is in"
            )
        if is_remote(self.path):
            # fsspec reads `a::b` as b inside a, whatever b is.
            return self._outside(text) if text.startswith("/") or "::" in text else ImageRef(join(self.path, text))
        return self._local(text)

    def _url(self, text: str, scheme: str) -> ImageRef | Reject:
        if scheme == "file":
            return Reject("source", "file_url", _short(text))
        if len(scheme) == 1:  # a Windows drive
            return self._outside(text)
        rest = text[len(scheme) :]
        chained = "::" in rest and scheme not in ("http", "https")
        if scheme not in SCHEMES or not rest.startswith("://") or chained:
            return Reject("source", "scheme", _short(text))
        return ImageRef(scheme + rest)

    def _local(self, text: str) -> ImageRef | Reject:
        assert self.path is not None
        path = os.path.join(self.path, text)
        folder, name = os.path.split(path)
        real = os.path.join(_real(folder), name)
        try:
            kind = os.lstat(real).st_mode
            if stat.S_ISLNK(kind):
                real = os.path.realpath(real)
                kind = os.lstat(real).st_mode
        except OSError:  # it is not there: reading it says so
            kind = stat.S_IFREG
        if not (real + "/").startswith(self.inside):
            return self._outside(text)
        if not stat.S_ISREG(kind):  # opening a pipe would wait for ever
            return Reject("source", "not_a_file", _short(text))
        return ImageRef(path)

    def _outside(self, text: str) -> Reject:
        return Reject("source", "outside_image_root", _short(text))


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _short(text: str) -> str:
    return ascii(text)[:200]


def references(
    value: Any, root: Root, cell: Callable[[int], ImageRef] | None = None
) -> tuple[ImageRef, ...] | Reject | None:
    """The pictures that an image value names; None where it names none (null, empty text, no bytes).

    Args:
        value: text, {"path" | "url"}, {"bytes"}, HERE, or a list of these; an empty list is no pictures on purpose.
        cell: makes the reference of bytes that lie in the table, out of the place in the list.
    """
    if isinstance(value, list | tuple):
        found = [_reference(item, root, cell, place) for place, item in enumerate(value)]
        for item in found:
            if isinstance(item, Reject):
                return item
        if None in found:
            return Reject("source", "no_image", f"picture {found.index(None) + 1} of {len(found)} is null")
        return tuple(item for item in found if isinstance(item, ImageRef))
    one = _reference(value, root, cell, -1)
    return (one,) if isinstance(one, ImageRef) else one


def _reference(value: Any, root: Root, cell: Callable[[int], ImageRef] | None, place: int) -> ImageRef | Reject | None:
    if isinstance(value, dict):
        if value.get("bytes") is HERE:
            value = HERE
        else:
            value = value.get("path") or value.get("url")
    if value is None or value == "":
        return None
    if value is HERE and cell is not None:
        return cell(place)
    if isinstance(value, str):
        return root.refer(value)
    return Reject("source", "bad_image", f"a picture is {type(value).__name__}, not a path, URL or bytes")
