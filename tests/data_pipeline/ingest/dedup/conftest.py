"""Tables of hashes, and what has to be found in them by comparing every row with every other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.ingest import DedupConfig
from data_pipeline.ingest.dedup.drops import read_drops
from data_pipeline.ingest.dedup.perceptual import near
from data_pipeline.ingest.dedup.run import HASHES, find_drops

SPAN = 100
BOTH = {"exact": "image", "near": True}


def hashes(
    position: Sequence[int],
    exact: Sequence[bytes | None] | None = None,
    look: Sequence[bytes | None] | None = None,
    published: Sequence[bool] | None = None,
) -> pa.Table:
    rows = len(position)
    columns = [position, exact or [None] * rows, look or [None] * rows, published or [False] * rows]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, HASHES, strict=True)], HASHES)


def cut(table: pa.Table, sizes: Sequence[int]) -> list[pa.Table]:
    """Chunks of these many rows."""
    ends = np.cumsum(sizes).tolist()
    return [table.slice(end - size, size) for size, end in zip(sizes, ends, strict=True)]


def itself(chunk: pa.Table) -> pa.Table:
    return chunk


def found(
    folder: Path, chunks: Sequence[pa.Table], config: dict[str, Any], *, on_ray: bool = False
) -> dict[int, tuple[int, str]]:
    """position -> (duplicate of, kind)."""
    count = find_drops(chunks, itself, DedupConfig(**config), str(folder), SPAN, on_ray=on_ray)
    stop = 1 + max(chunk["position"].to_numpy().max(initial=0) for chunk in chunks)
    table = read_drops(str(folder), SPAN, 0, int(stop))
    assert table.num_rows == count
    assert table["position"].to_pylist() == sorted(table["position"].to_pylist())
    return {row["position"]: (row["duplicate_of"], row["kind"]) for row in table.to_pylist()}


def expected(table: pa.Table) -> dict[int, tuple[int, str]]:
    """What `found` has to give with BOTH, by the definition."""
    rows = sorted(table.to_pylist(), key=lambda row: (not row["published"], row["position"]))
    drops: dict[int, tuple[int, str]] = {}
    for kind in ("exact", "near"):
        rows = [row for row in rows if row["position"] not in drops]
        part = [row for row in rows if row[kind] is not None]
        values = np.array([np.frombuffer(row[kind], np.uint8) for row in part])
        for number, row in enumerate(part):
            earlier = values[:number]
            again = np.broadcast_to(values[number], earlier.shape)
            alike = (earlier == again).all(axis=1) if kind == "exact" else near(earlier, again)
            if alike.any() and not row["published"]:
                drops[row["position"]] = (part[int(alike.argmax())]["position"], kind)
    return drops


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def picture(seed: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Shapes of all sizes on a ground, uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = random.integers(0, 256, 3)
    for _ in range(12):
        top, left = random.integers(0, height), random.integers(0, width)
        tall, wide = random.integers(4, 40, 2)
        pixels[top : top + tall, left : left + wide] = random.integers(0, 256, 3)
    return pixels


def brighter(pixels: np.ndarray, levels: int) -> np.ndarray:
    return np.clip(pixels.astype(int) + levels, 0, 255).astype(np.uint8)
