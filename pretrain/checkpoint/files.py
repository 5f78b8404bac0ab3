"""A rank's file: safetensors, written and hashed in one pass from memory, read by ranges.

Its `__metadata__` holds, under `pieces`, which span of which logical tensor each entry `kind/name` is. No pickle.
"""

import contextlib
import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from data_pipeline import storage
from pretrain.checkpoint.geometry import Block, Span
from pretrain.checkpoint.head import SCHEMA
from pretrain.engine import KINDS

STATE, LEDGER, FILES = "state.json", "ledger.bin", "files.json"
"""What a checkpoint has beside the ranks' files; the last one lists all others with their hashes."""
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "U8": torch.uint8}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MOST_HEADER = 100 << 20
READ_BYTES = 16 << 20
WRITE_BYTES = 8 << 20
LOGICAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")


@dataclass(frozen=True)
class Stored:
    """An entry of a rank's file: `kind` of tensor `name`, which span of it, and where its bytes begin."""

    path: str
    kind: str
    name: str
    span: Span
    dtype: torch.dtype
    offset: int


@dataclass(frozen=True)
class Part:
    """An entry to be written: bytes [offset, offset + size) of the staging buffer."""

    kind: str
    name: str
    span: Span
    dtype: torch.dtype
    offset: int
    size: int


def header_of(parts: Iterable[Part], more: dict[str, str]) -> bytes:
    """The head of the file: length and JSON, padded to 8 bytes. Parts follow in order, without gaps."""
    entries: dict[str, Any] = {}
    pieces, at = [], 0
    for part in parts:
        key = f"{part.kind}/{part.name}"
        entries[key] = {"dtype": NAMES[part.dtype], "shape": [part.span.count], "data_offsets": [at, at + part.size]}
        span = part.span
        pieces.append([key, list(span.shape), span.axis, span.offset, span.size, span.start, span.stop])
        at += part.size
    metadata = {"format": "looksay", "schema": str(SCHEMA), "pieces": json.dumps(pieces), **more}
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write(
    path: str, parts: list[Part], data: Callable[[Part], memoryview], more: dict[str, str] | None = None
) -> tuple[str, int]:
    """Write a rank's file, whole or not at all. Returns its SHA-256 and its bytes.

    Args:
        data: the bytes of a part.
    Raises:
        RunError: no space is left, or the store failed for too long.
    """
    head = header_of(parts, more or {})
    digest = hashlib.sha256(head)

    def fill(target: str) -> None:
        with open(target, "wb", buffering=0) as stream:
            stream.write(head)
            for part in parts:
                content = data(part)
                for at in range(0, part.size, WRITE_BYTES):
                    piece = content[at : at + WRITE_BYTES]
                    digest.update(piece)
                    while piece:
                        piece = piece[stream.write(piece) :]

    storage.put_file(path, fill)
    return digest.hexdigest(), len(head) + sum(part.size for part in parts)


def sha256_of(path: str) -> str:
    """SHA-256 of a file, 8 MiB of it in memory at a time."""
    digest = hashlib.sha256()
    with storage.open_stream(path) as stream:
        while piece := stream.read(WRITE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def entries_of(path: str) -> list[Stored]:
    """What a rank's file holds.

    Raises:
        UserError: the file is not one of ours, or its header contradicts itself.
    """
    size = storage.size_of(path)
    with _refusing(path):
        (length,) = struct.unpack("<Q", storage.read_range(path, 0, 8))
        if length > min(MOST_HEADER, size - 8):
            raise ValueError(f"its header claims {length} bytes of {size}")
        header = json.loads(storage.read_range(path, 8, length))
        metadata = header.pop("__metadata__")
        if metadata["format"] != "looksay" or metadata["schema"] != str(SCHEMA):
            raise ValueError(f"its format is {metadata['format']!r} {metadata['schema']!r}")
        pieces = {key: Span(tuple(shape), *rest) for key, shape, *rest in json.loads(metadata["pieces"])}
        if pieces.keys() != header.keys():
            raise ValueError("its pieces are not its tensors")
        return [_stored(path, key, header[key], pieces[key], 8 + length, size) for key in pieces]


def metadata_of(path: str, key: str) -> str | None:
    """A further value of the metadata."""
    with _refusing(path):
        (length,) = struct.unpack("<Q", storage.read_range(path, 0, 8))
        found = json.loads(storage.read_range(path, 8, min(length, MOST_HEADER)))["__metadata__"].get(key)
        return None if found is None else str(found)


def _stored(path: str, key: str, entry: dict[str, Any], span: Span, base: int, size: int) -> Stored:
    kind, _, name = key.partition("/")
    begin, end = entry["data_offsets"]
    dtype = DTYPES[entry["dtype"]]
    whole = span.rows * span.columns
    if kind not in KINDS or not LOGICAL.fullmatch(name):
        raise ValueError(f"it names {key[:80]!r}")
    if not 0 <= span.start < span.stop <= whole or entry["shape"] != [span.count]:
        raise ValueError(f"{key} has a range that is none of its shape")
    if not 0 <= begin <= end <= size - base or end - begin != span.count * dtype.itemsize:
        raise ValueError(f"{key} lies outside the file")
    return Stored(path, kind, name, span, dtype, base + begin)


@contextlib.contextmanager
def _refusing(path: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a file of a looksay checkpoint ({error}): remove or replace it") from None


class Reader:
    """Ranged reads of many files; open ones are kept."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def copy(self, stored: Stored, block: Block, target: Tensor) -> None:
        """Copy a block of a stored piece into the flat tensor `target`, converted to its dtype."""
        item = stored.dtype.itemsize
        step = max(1, READ_BYTES // item // max(1, block.source_stride if block.rows > 1 else block.width))
        if block.rows == 1:
            for at in range(0, block.width, max(1, READ_BYTES // item)):
                count = min(max(1, READ_BYTES // item), block.width - at)
                values = self._values(stored, block.source + at, count)
                target[block.target + at : block.target + at + count].copy_(values)
            return
        for row in range(0, block.rows, step):
            rows = min(step, block.rows - row)
            first = block.source + row * block.source_stride
            values = self._values(stored, first, (rows - 1) * block.source_stride + block.width)
            shape, stride = (rows, block.width), (block.source_stride, 1)
            into = target.as_strided(
                shape, (block.target_stride, 1), target.storage_offset() + block.target + row * block.target_stride
            )
            into.copy_(values.as_strided(shape, stride))

    def _values(self, stored: Stored, first: int, count: int) -> Tensor:
        item = stored.dtype.itemsize
        data = bytearray(self._bytes(stored.path, stored.offset + first * item, count * item))
        if len(data) != count * item:
            raise UserError(f"{stored.path} ends before {stored.kind} of {stored.name} does: it was cut short")
        return torch.frombuffer(data, dtype=stored.dtype)

    def _bytes(self, path: str, offset: int, size: int) -> bytes:
        if storage.is_remote(path):
            return storage.read_range(path, offset, size)
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY)
        return os.pread(self._open[path], size, offset)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
