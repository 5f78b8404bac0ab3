"""What each step of the committed history trained on: 24 bytes a step, in every checkpoint, from step 1 on.

The plan is a function of the recipe, so a step's hash of sample ids proves which samples it was
(`looksay checkpoint verify --samples` draws the plan again and compares).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from configs.errors import UserError

RECORD = struct.Struct("<8sIIII")
SKIPPED = 1
"""The step's gradient was not finite: its samples were read, and changed nothing."""


class Step(NamedTuple):
    """One step: the first 8 bytes of its `ids_hash`, samples, those that failed, the start that trained it, flags."""

    ids: bytes
    samples: int
    failed: int
    generation: int
    flags: int


class Ledger:
    """Steps 1 ... len(self)."""

    def __init__(self, data: bytes = b""):
        if len(data) % RECORD.size:
            raise UserError(f"a ledger of {len(data)} bytes was cut short: use another checkpoint")
        self._data = bytearray(data)

    def __len__(self) -> int:
        return len(self._data) // RECORD.size

    def __iter__(self) -> Iterator[Step]:
        return (Step(*fields) for fields in RECORD.iter_unpack(self._data))

    def add(self, step: int, ids_hash: str, samples: int, failed: int, generation: int, flags: int = 0) -> None:
        """Append step `step`, which must be the next one. `ids_hash` in hexadecimal."""
        if step != len(self) + 1:
            raise ValueError(f"step {step} follows {len(self)} in the ledger")
        self._data += RECORD.pack(bytes.fromhex(ids_hash)[:8], samples, failed, generation, flags)

    def to_bytes(self) -> bytes:
        return bytes(self._data)
