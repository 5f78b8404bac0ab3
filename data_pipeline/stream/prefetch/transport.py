"""Batches and planned rows over a local socket: JSON and raw arrays, no pickle.

Arrays of a batch lie in an anonymous memory file whose descriptor is passed: nothing is copied on the way, it has no
name, and it is gone when the last process that holds it is.
"""

import json
import mmap
import os
import socket
from dataclasses import fields
from typing import Any

import numpy as np

from data_pipeline.stream.batch import Batch, RowInfo, Vision

ALIGN = 64
LARGEST_MESSAGE = 1 << 30
"""A length above this is no message of ours."""
ARRAYS = ("ids", "targets", "weights", "segments")


def send(link: socket.socket, header: dict[str, Any], body: bytes = b"", descriptor: int | None = None) -> None:
    """A message: a JSON header and bytes, and a file descriptor."""
    head = json.dumps(header).encode()
    lengths = len(head).to_bytes(8, "little") + len(body).to_bytes(8, "little")
    if descriptor is None:
        link.sendall(lengths)
    else:
        socket.send_fds(link, [lengths], [descriptor])
    link.sendall(head)
    if body:
        link.sendall(body)


def receive(link: socket.socket) -> tuple[dict[str, Any], bytes, int | None]:
    """The next message.

    Raises:
        EOFError: the other side is gone.
    """
    lengths, descriptors, _, _ = socket.recv_fds(link, 16, 1)
    descriptor = descriptors[0] if descriptors else None
    try:
        lengths += _exactly(link, 16 - len(lengths)) if lengths else b""
        if len(lengths) != 16:
            raise EOFError("the other side is gone")
        head, body = (int.from_bytes(part, "little") for part in (lengths[:8], lengths[8:]))
        if head > LARGEST_MESSAGE or body > LARGEST_MESSAGE:
            raise EOFError("the other side sends no message of ours")
        return json.loads(_exactly(link, head)), _exactly(link, body), descriptor
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise


def _exactly(link: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        got = link.recv_into(view[done:])
        if not got:
            raise EOFError("the other side is gone")
        done += got
    return bytes(data)


def pack(batch: Batch) -> tuple[dict[str, Any], list[np.ndarray], int]:
    """(header, arrays, bytes that they take one after the other, each at a multiple of ALIGN)."""
    arrays: dict[str, np.ndarray] = {name: getattr(batch, name) for name in ARRAYS}
    same = all(np.shares_memory(batch.positions[0], batch.positions[k]) for k in (1, 2))
    arrays["positions"] = batch.positions[0] if same else batch.positions
    for column in fields(Vision):
        value = getattr(batch.vision, column.name)
        if isinstance(value, list):
            arrays |= {f"image {n}": image for n, image in enumerate(value)}
        elif value is not None:
            arrays[f"vision {column.name}"] = value
    table, end = [], 0
    for name, array in arrays.items():
        table.append([name, array.dtype.str, list(array.shape), end])
        end += -(-array.nbytes // ALIGN) * ALIGN
    header = {
        "batch": table,
        "images": None if batch.vision.images is None else len(batch.vision.images),
        "denominator": batch.denominator,
        "rows": [[r.row, list(r.samples), r.tokens, r.visual, r.patches, r.labels] for r in batch.rows],
    }
    return header, [np.ascontiguousarray(array) for array in arrays.values()], max(1, end)


def write(header: dict[str, Any], arrays: list[np.ndarray], memory: Any) -> None:
    """The arrays into `memory`, at their places."""
    for (_, _, _, start), array in zip(header["batch"], arrays, strict=True):
        if array.nbytes:
            memory[start : start + array.nbytes] = array.reshape(-1).view(np.uint8).data


def unpack(header: dict[str, Any], memory: Any) -> Batch:
    """The batch whose arrays lie in `memory`: views of it."""
    arrays = {}
    for name, kind, shape, start in header["batch"]:
        dtype = np.dtype(kind)
        arrays[name] = np.frombuffer(memory, dtype, int(np.prod(shape, dtype=np.int64)), start).reshape(shape)
    vision: dict[str, Any] = {name[7:]: array for name, array in arrays.items() if name.startswith("vision ")}
    if header["images"] is not None:
        vision["images"] = [arrays[f"image {n}"] for n in range(header["images"])]
    positions = arrays["positions"]
    return Batch(
        **{name: arrays[name] for name in ARRAYS},
        positions=np.broadcast_to(positions, (3, *positions.shape)) if positions.ndim == 2 else positions,
        vision=Vision(**vision),
        denominator=header["denominator"],
        rows=tuple(RowInfo(row, tuple(samples), *counts) for row, samples, *counts in header["rows"]),
    )


def send_batch(link: socket.socket, batch: Batch) -> None:
    """A batch, its arrays in a memory file."""
    header, arrays, size = pack(batch)
    descriptor = os.memfd_create("looksay-batch", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, size) as memory:
            write(header, arrays, memory)
        send(link, header, descriptor=descriptor)
    finally:
        os.close(descriptor)


def to_batch(header: dict[str, Any], descriptor: int) -> Batch:
    """The batch of a message; takes over its descriptor. Its arrays can be written to, each process its own copy."""
    try:
        memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)
    return unpack(header, memory)
