"""A safetensors file, tensor by tensor: mapped by its own library, or read in ranges where mapping is risky.

The form: 8 bytes with the header's length (little endian), the header (JSON: name -> dtype, shape, [start, stop) behind
the header), the tensors.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from configs.mounts import is_network

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MOST_HEADER = 100_000_000


def open_tensors(path: Path) -> Any:
    """`safe_open`, or what offers the same of it: `keys()`, `get_slice(name)`, `get_tensor(name)`, a context.

    Raises:
        FileNotFoundError, OSError, SafetensorError: as `safe_open` does.
    """
    return ReadTensors(path) if is_network(path) else safe_open(str(path), framework="pt")


class ReadTensors:
    """Tensors of a file that is read, not mapped."""

    def __init__(self, path: Path):
        self._stream: BinaryIO = open(path, "rb")  # noqa: SIM115  (closed by __exit__)
        try:
            self._start, self._held = _header(self._stream, path)
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> "ReadTensors":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def keys(self) -> list[str]:
        return sorted(self._held)

    def get_slice(self, name: str) -> "Shown":
        return Shown(self._held[name])

    def get_tensor(self, name: str) -> Tensor:
        """A tensor of its own memory.

        Raises:
            SafetensorError: the file ends before it, or its size is not that of its shape.
        """
        entry = self._held[name]
        start, stop = entry["data_offsets"]
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise SafetensorError(f"{name} has dtype {entry['dtype']}, which is not known")
        if stop - start != math.prod(entry["shape"]) * dtype.itemsize:
            raise SafetensorError(f"{name} has {stop - start} bytes, not those of its shape {entry['shape']}")
        self._stream.seek(self._start + start)
        data = bytearray(self._stream.read(stop - start))
        if len(data) != stop - start:
            raise SafetensorError(f"the file ends within {name}")
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return flat.reshape(entry["shape"])


class Shown:
    """Shape and dtype of a tensor, without its values."""

    def __init__(self, entry: dict[str, Any]):
        self._entry = entry

    def get_shape(self) -> list[int]:
        return list(self._entry["shape"])

    def get_dtype(self) -> str:
        return str(self._entry["dtype"])


def _header(stream: BinaryIO, path: Path) -> tuple[int, dict[str, Any]]:
    """(where the tensors begin, name -> entry)."""
    first = stream.read(8)
    (size,) = struct.unpack("<Q", first) if len(first) == 8 else (0,)
    if not 0 < size <= MOST_HEADER:
        raise SafetensorError(f"{path} is no safetensors file")
    try:
        held = json.loads(stream.read(size))
        entries = {
            name: {"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": tuple(entry["data_offsets"])}
            for name, entry in held.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SafetensorError(f"the header of {path} cannot be read: {error}") from None
    return 8 + size, entries
