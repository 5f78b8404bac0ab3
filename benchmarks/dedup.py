"""Dedup: what the perceptual hash finds and confuses, and what the search over all shards takes.

    python benchmarks/dedup.py pictures [--sets photos clip_art ...] [--list FILE]
    python benchmarks/dedup.py exact --rows 100000000      [--in-process]
    python benchmarks/dedup.py near --rows 10000000        [--in-process]

Goals: recall on resized and on q50 copies >= 0.98, false merges <= 1e-4, <= 0.4 CPU-ms a picture, 100 M hashes in 2 GB.

pictures: each set (`dedup_pictures.py`) goes through the search by itself. Every file counts as different, so each one that is
dropped is a false merge ("strict"); then only those that do not show one picture by their pixels (`one_picture`). Then every n-th picture and its copies (edited from the full picture, stored at a shortest
side of 256): recall is the part of copies that the search drops. CPU: `perceptual_hash` of stored pictures, one thread.

exact, near: rows made inside the tasks from their number, in chunks of 50,000; every fifth picture comes twice, far apart;
so the right answer is known for each row, and all files are checked. Memory is that of this process and of all below it
(Ray's own too), read every half second: RSS counts shared pages in each process, PSS once in all.
"""

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402

from configs.ingest import DedupConfig, RayConfig  # noqa: E402
from data_pipeline.ingest.dedup.buckets import mix  # noqa: E402
from data_pipeline.ingest.dedup.drops import read_drops, read_found  # noqa: E402
from data_pipeline.ingest.dedup.perceptual import CHROMA, LUMA, NEAR_BYTES, SHAPE, SIDE, perceptual_hash  # noqa: E402
from data_pipeline.ingest.dedup.run import HASHES, find_drops  # noqa: E402
from data_pipeline.ingest.ray_local import local_ray  # noqa: E402

CHUNK, SPAN, TWICE = 50_000, 1_000_000, 5


# ---- pictures


def drops_of(hashes: list[bytes]) -> dict[int, int]:
    """Place -> place of the earlier picture, through the search itself."""
    rows = len(hashes)
    table = pa.table([range(rows), pa.nulls(rows, pa.binary(16)), hashes, [False] * rows], HASHES)
    with tempfile.TemporaryDirectory() as folder:
        find_drops([table], _itself, DedupConfig(near=True), folder, SPAN, on_ray=False)
        found = read_drops(folder, SPAN, 0, rows)
    return dict(zip(found["position"].to_pylist(), found["duplicate_of"].to_pylist(), strict=True))


def _itself(chunk: pa.Table) -> pa.Table:
    return chunk


def pictures(names: list[str], every: dict[str, int], offset: int, listing: Path | None) -> None:
    from dedup_pictures import SETS, edits, one_picture, seen, stored

    lines, recalls = [], []
    for name in names:
        labels, hashes, looks, copies, spent = [], [], [], {}, 0.0
        chosen: list[int] = []
        for number, (label, picture) in enumerate(SETS[name]()):
            pixels = stored(picture)
            start = time.process_time()
            value = perceptual_hash(pixels)
            spent += time.process_time() - start
            labels.append(label)
            hashes.append(value)
            looks.append(seen(pixels))
            if number % every.get(name, 4) == offset % every.get(name, 4):
                chosen.append(number)
                for edit, copy in edits(picture).items():
                    copies.setdefault(edit, []).append(perceptual_hash(stored(copy)))
        wrong = drops_of(hashes)
        other = {one: two for one, two in wrong.items() if not one_picture(looks[one], looks[two])}
        rates = " | ".join(f"{len(found)} | {len(found) / len(hashes):.1e}" for found in (wrong, other))
        lines.append(f"| {name} | {len(hashes)} | {rates} | {1000 * spent / len(hashes):.2f} |")
        found = []
        for values in copies.values():
            dropped = drops_of([hashes[number] for number in chosen] + values)
            found.append(sum(len(chosen) + place in dropped for place in range(len(values))) / len(values))
        recalls.append(f"| {name} | {len(chosen)} | " + " | ".join(f"{part:.4f}" for part in found) + " |")
        if listing is not None:
            with open(listing, "a", encoding="utf-8") as out:
                for one, two in wrong.items():
                    said = "different" if one in other else "one picture"
                    out.write(f"{name}\t{labels[one]}\t{labels[two]}\t{said}\n")
        print(lines[-1], recalls[-1], sep="\n", file=sys.stderr, flush=True)  # it takes long: as it is known
    print("| set | files | dropped | part | of these different | part | CPU-ms |\n|---|---|---|---|---|---|---|")
    print("\n".join(lines))
    print("\n| recall | pictures | " + " | ".join(copies) + " |\n|---|---|" + "---|" * len(copies))
    print("\n".join(recalls))


# ---- rows made from their number


def content(position: np.ndarray, rows: int) -> np.ndarray:
    """Which picture a row shows. Of every TWICE pictures, one is in two rows."""
    several = rows - rows // (TWICE + 1)
    place = (position * _stride(rows) + 12345) % rows
    return np.where(place < several, place, place - several)


def partner(position: np.ndarray, rows: int) -> np.ndarray:
    """The other row of the same picture, -1 where there is none."""
    several = rows - rows // (TWICE + 1)
    back = pow(_stride(rows), -1, rows)
    place = (position * _stride(rows) + 12345) % rows
    other = np.where(place < several, place + several, place - several)
    return np.where(other < rows, _product(other - 12345, back, rows), -1)


def _stride(rows: int) -> int:
    """Steps through all rows, coprime to their number."""
    stride = int(rows * 0.618) % 40_000_000 | 1
    while np.gcd(stride, rows) != 1:
        stride += 2
    return stride


def _product(values: np.ndarray, factor: int, rows: int) -> np.ndarray:
    """values x factor modulo rows, below 2**63."""
    high, low = divmod(factor, 1 << 20)
    values = values % rows
    return ((values * high % rows) * (1 << 20) + values * low) % rows


def make_exact(rows: int, chunk: int) -> pa.Table:
    position = np.arange(chunk * CHUNK, min(rows, (chunk + 1) * CHUNK))
    key = mix(content(position, rows).astype(np.uint64) + np.uint64(99))
    exact = np.stack([key, mix(key)], axis=1).tobytes()
    return _table(position, exact=exact)


def make_near(rows: int, chunk: int) -> pa.Table:
    """Hashes with the spectrum of photographs (amplitude falls with frequency); copies differ by up to a level a cell."""
    position = np.arange(chunk * CHUNK, min(rows, (chunk + 1) * CHUNK))
    shown = content(position, rows).astype(np.uint64)
    down, across = np.indices((8, 8))
    wave = np.cos((2 * np.arange(8) + 1) * np.arange(8)[:, None] * np.pi / 16) * 0.5
    waves = np.einsum("ux,vy->uvxy", wave, wave).reshape(64, 64) * (120 / np.hypot(down, across).clip(1)).reshape(64, 1)
    noise = _bits(position.astype(np.uint64) + np.uint64(1 << 40), 97) % 3
    luma = 110 + np.stack([_normal(shown, number) for number in range(64)], axis=1) @ waves
    colour = 128 + np.stack([_normal(shown, 64 + number // 4) * 15 for number in range(32)], axis=1)
    hashes = np.empty((len(position), NEAR_BYTES), np.uint8)
    hashes[:, SHAPE] = np.array([115, 128, 141])[_bits(shown, 1)[:, 0] % 3]
    hashes[:, SIDE] = 255
    steps = (_bits(shown, 16) % 31).astype(np.int16).reshape(-1, 1, 4, 1, 4) - 16  # the same in each cell of 4 x 4
    luma = luma.astype(np.int16).reshape(-1, 8, 1, 8, 1) + noise[:, :64].reshape(-1, 8, 1, 8, 1) + steps
    hashes[:, LUMA] = luma.clip(0, 255, out=luma).reshape(-1, 1024)
    for number, part in enumerate(CHROMA):
        cells = colour[:, 16 * number : 16 * number + 16].repeat(4, axis=1)
        hashes[:, part] = np.clip(cells + noise[:, :64] - 1, 0, 255)
    return _table(position, near=hashes.tobytes())


def _normal(shown: np.ndarray, number: int) -> np.ndarray:
    """About normal, float64 [n], from the numbers of pictures."""
    bits = mix(shown * np.uint64(128) + np.uint64(number)).view(np.uint8).reshape(-1, 8)
    return (bits.sum(axis=1, dtype=np.int64) - 1020) / 209


def _bits(numbers: np.ndarray, count: int) -> np.ndarray:
    """uint8 [n, count]."""
    words = [mix(numbers * np.uint64(64) + np.uint64(word)) for word in range(-(-count // 8))]
    return np.stack(words, axis=1).view(np.uint8)[:, :count]


def _table(position: np.ndarray, exact: bytes | None = None, near: bytes | None = None) -> pa.Table:
    columns: list[pa.Array] = [pa.array(position)]
    for data, field in ((exact, HASHES.field("exact")), (near, HASHES.field("near"))):
        full = None if data is None else pa.Array.from_buffers(field.type, len(position), [None, pa.py_buffer(data)])
        columns.append(pa.nulls(len(position), field.type) if full is None else full)
    return pa.table([*columns, pa.array(np.zeros(len(position), bool))], HASHES)


# ---- memory


class Peaks(NamedTuple):
    driver: float  # MB of RSS
    largest: float
    all_rss: float
    all_pss: float


class Watch:
    """Peaks of this process and all below it, while inside."""

    def __enter__(self) -> "Watch":
        self.peaks, self._stop = Peaks(0, 0, 0, 0), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.5):
            sizes = [self._sizes(process.pid) for process in [own, *own.children(recursive=True)]]
            rss, pss = [size[0] for size in sizes], [size[1] for size in sizes]
            now = Peaks(rss[0], max(rss), sum(rss), sum(pss))
            self.peaks = Peaks(*(max(pair) for pair in zip(self.peaks, now, strict=True)))

    @staticmethod
    def _sizes(pid: int) -> tuple[float, float]:
        found = {"Rss:": 0.0, "Pss:": 0.0}
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                word, *rest = line.split()
                if word in found:
                    found[word] = int(rest[0]) / 1024
        except (OSError, ValueError):
            pass  # it has just ended
        return found["Rss:"], found["Pss:"]


# ---- the search


def search(kind: str, rows: int, in_process: bool) -> bool:
    make: Callable[[int, int], pa.Table] = make_exact if kind == "exact" else make_near
    config = DedupConfig(exact="image") if kind == "exact" else DedupConfig(near=True)
    chunks = range(-(-rows // CHUNK))
    with tempfile.TemporaryDirectory() as folder:
        arguments = (chunks, partial(make, rows), config, folder, SPAN)
        with Watch() as watch:
            if in_process:
                start = time.monotonic()
                count = find_drops(*arguments, on_ray=False)
            else:
                with local_ray(RayConfig(workers=os.cpu_count(), object_store_mb=256)):
                    start = time.monotonic()
                    count = find_drops(*arguments, on_ray=True)
            seconds = time.monotonic() - start
        missing, wrong = checked(folder, rows)
    peaks, expected = watch.peaks, rows // (TWICE + 1)
    where = "this process" if in_process else f"Ray, {os.cpu_count()} workers, store of 256 MB"
    print(
        "| search | rows | where | dropped | missing | wrong | s | driver MB | largest MB | sum of RSS | sum of PSS |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    memory = " | ".join(f"{value:.0f}" for value in peaks)
    print(
        f"| {kind} | {rows:,} | {where} | {count:,} of {expected:,} | {missing} | {wrong} | {seconds:.0f} | {memory} |"
    )
    return wrong == 0 and missing <= (0 if kind == "exact" else 0.02 * expected)


def checked(folder: str, rows: int) -> tuple[int, int]:
    """(duplicates that are not dropped, rows that are dropped wrongly or name another row than the earlier one)."""
    missing = wrong = 0
    found = read_found(folder)
    assert found is not None
    for start in range(0, rows, SPAN):
        stop = min(rows, start + SPAN)
        position = np.arange(start, stop)
        other = partner(position, rows)
        of = np.full(stop - start, -1)
        drops = read_drops(folder, SPAN, start, stop)
        of[drops["position"].to_numpy() - start] = drops["duplicate_of"].to_numpy()
        right = np.where((other >= 0) & (other < position), other, -1)
        missing += int(((right >= 0) & (of < 0)).sum())
        wrong += int(((of >= 0) & (of != right)).sum())
    return missing, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pictures", "exact", "near"))
    parser.add_argument(
        "--sets", nargs="+", default=["photos", "clip_art", "stamps", "manual", "emoji", "shapes", "stars"]
    )
    parser.add_argument("--list", type=Path, help="add the pairs that are merged to this file")
    parser.add_argument("--offset", type=int, default=0, help="which of every n pictures are copied")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--in-process", action="store_true")
    args = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python {platform.python_version()}\n", flush=True)
    if args.what == "pictures":
        pictures(args.sets, {"photos": 10, "emoji": 2, "stamps": 1, "manual": 2}, args.offset, args.list)
        return 0
    return 0 if search(args.what, args.rows, args.in_process) else 1


if __name__ == "__main__":
    sys.exit(main())
