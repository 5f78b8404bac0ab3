"""Samples a second out of plain tars, shuffled, in one process: ours, every byte checked, and other loaders beside us.

    python benchmarks/reading.py make --samples 20000          # 1 GB: page-cached
    python benchmarks/reading.py measure                       # ours, and peers from benchmarks/.cache/loaders
    python benchmarks/reading.py make --samples 560000 --folder cold && python benchmarks/reading.py cold
    python benchmarks/reading.py index                         # foreign tars indexed
    python benchmarks/reading.py s3                            # a real server behind a proxy with 5 % errors, 2 % stalls

A sample is 50,000 bytes under `.jpg` and a JSON of about 200. Peers read the same bytes, in their own format where they have no other.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent
CACHE = ROOT / ".cache" / "reading"
PYTHON = ROOT / ".cache" / "loaders" / "bin" / "python"
PAYLOAD = 50_000
SHARD = 2000
BATCH = 64


def make(folder: Path, count: int) -> None:
    """A dataset of plain tars whose pictures are random bytes."""
    import hashlib

    import pyarrow as pa

    from data_pipeline.manifest import Manifest, write_manifest
    from data_pipeline.sample import ImageInfo, Sample, key_of
    from data_pipeline.shard import INDEX_SCHEMA, encode_sample, index_bytes, tar_end
    from data_pipeline.shard_table import ShardEntry, ShardTable

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    block = random.bytes(PAYLOAD)
    entries = []
    for shard, first in enumerate(range(0, count, SHARD)):
        rows, at = [], 0
        with open(folder / f"{shard:05d}.tar", "wb") as stream:
            for number in range(first, min(first + SHARD, count)):
                data = number.to_bytes(8, "little") + block[8:]
                text = "a caption of some length about what there is to see " * 3
                sample = Sample(key_of(number), (data,), ("jpg",), (ImageInfo(256, 256),), text)
                pieces, size, row = encode_sample(sample)
                row["json_offset"] += at
                row["image_offset"] = [offset + at for offset in row["image_offset"]]
                rows.append(row)
                stream.writelines(pieces)
                at += size
            end = tar_end(at)
            stream.write(end)
        index = index_bytes(pa.Table.from_pylist(rows, INDEX_SCHEMA))
        (folder / f"{shard:05d}.index.parquet").write_bytes(index)
        hashes = {"tar": "0" * 64, "index": hashlib.sha256(index).hexdigest(), "outcomes": "0" * 64}
        entries.append(ShardEntry(f"{shard:05d}", len(rows), len(rows), at + len(end), hashes))
    totals = {
        "rows": count,
        "kept": count,
        "rejected": {},
        "pictures_per_sample": {"1": count},
        "bytes": count * PAYLOAD,
    }
    write_manifest(str(folder), Manifest(folder.name, folder.name, {}, ShardTable(entries), totals))


def ours(folder: Path, checksums: bool, most: int) -> float:
    """Samples a second in the draw order of a plan (chunks of 64, 16 of them shuffled among each other)."""
    from configs.data import ReadConfig
    from data_pipeline.stream.plan.order import Order
    from data_pipeline.stream.read.dataset import BadSample, Dataset

    dataset = Dataset(str(folder), ReadConfig(checksums=checksums))
    order = Order(dataset.starts, 64, seed=1, source=0)
    indices: list[int] = []
    for group in range(order.groups):
        spans = order.spans(0, group)
        found = np.concatenate([np.arange(a, b) + dataset.starts[s] for s, a, b in spans])
        indices += found[order.shuffle(0, group, len(found))].tolist()
        if len(indices) >= most:
            break
    indices = indices[:most]
    dataset.read_many(indices[:BATCH])
    start, cpu, copied = time.perf_counter(), time.process_time(), 0
    for at in range(0, len(indices), BATCH):
        for sample in dataset.read_many(indices[at : at + BATCH]):
            assert not isinstance(sample, BadSample)
            if not checksums:
                copied += sum(len(bytes(part)) for part in (*sample.images, sample.body))
    print(f"{len(indices) / (time.process_time() - cpu):,.0f} a CPU second", file=sys.stderr)
    return len(indices) / (time.perf_counter() - start)


PEER = r"""
import sys, time, os, json, glob
kind, folder, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
def done(n, start): print(json.dumps({"samples_per_s": n / (time.perf_counter() - start)}))
if kind == "webdataset":
    import webdataset as wds
    data = wds.WebDataset(sorted(glob.glob(folder + "/*.tar")), shardshuffle=100, empty_check=False).shuffle(1000)
    start, n = time.perf_counter(), 0
    for sample in data:
        n += bool(sum(map(len, (sample["jpg"], sample["json"]))))
        if n >= most: break
    done(n, start)
if kind == "streaming":
    from streaming import MDSWriter, StreamingDataset
    out = folder + "-mds"
    if not os.path.exists(out):
        import webdataset as wds
        with MDSWriter(out=out, columns={"jpg": "bytes", "json": "bytes"}) as writer:
            for sample in wds.WebDataset(sorted(glob.glob(folder + "/*.tar")), shardshuffle=False):
                writer.write({"jpg": sample["jpg"], "json": sample["json"]})
    data = StreamingDataset(local=out, shuffle=True, batch_size=64)
    start, n = time.perf_counter(), 0
    for sample in data:
        n += bool(len(sample["jpg"]) + len(sample["json"]))
        if n >= most: break
    done(n, start)
if kind == "litdata":
    import litdata
    out = folder + "-lit"
    def load(item): return {"jpg": item[0], "json": item[1]}
    if not os.path.exists(out):
        import webdataset as wds
        items = [(s["jpg"], s["json"]) for s in wds.WebDataset(sorted(glob.glob(folder + "/*.tar")), shardshuffle=False)]
        from litdata.streaming.writer import BinaryWriter
        writer = BinaryWriter(out, chunk_bytes="64MB")
        for n, item in enumerate(items): writer[n] = load(item)
        writer.done(); writer.merge()
    data = litdata.StreamingDataset(out, shuffle=True)
    start, n = time.perf_counter(), 0
    for sample in data:
        n += bool(len(sample["jpg"]) + len(sample["json"]))
        if n >= most: break
    done(n, start)
"""


def peer(kind: str, folder: Path, most: int) -> float | str:
    command = ["taskset", "-c", "1", str(PYTHON), "-c", PEER, kind, str(folder), str(most)]
    for _ in range(2):  # the first run makes the peer's own format
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
        if found.returncode:
            return found.stderr.strip().splitlines()[-1][:120]
    return float(json.loads(found.stdout.strip().splitlines()[-1])["samples_per_s"])


def part(what: str, folder: str, most: str) -> None:
    os.sched_setaffinity(0, {1})
    print(json.dumps(ours(Path(folder), what == "checked", int(most))))


def one(what: str, folder: Path, most: int) -> float:
    command = [sys.executable, __file__, "part", what, str(folder), str(most)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(folder: Path, most: int, runs: int = 3) -> None:
    for path in folder.glob("*.tar"):
        path.read_bytes()  # into the page cache
    rows: dict[str, list[Any]] = {}
    for _ in range(runs):
        rows.setdefault("looksay, every byte checked", []).append(one("checked", folder, most))
        rows.setdefault("looksay, no checksums, bytes copied", []).append(one("copied", folder, most))
        for kind in ("webdataset", "streaming", "litdata"):
            if PYTHON.exists():
                rows.setdefault(f"{kind}, none checked", []).append(peer(kind, folder, most))
    for name, found in rows.items():
        numbers = [value for value in found if isinstance(value, float)]
        print(f"| {name} | {np.median(numbers):,.0f} |" if numbers else f"| {name} | {found[-1]} |", flush=True)


def cold(folder: Path, most: int) -> None:
    """From a set larger than memory: what is read first pushes out what was written last."""
    print(f"{sum(p.stat().st_size for p in folder.glob('*.tar')) / 2**30:.1f} GiB on disk")
    start = time.perf_counter()
    size = 0
    with open(folder / "00000.tar", "rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while piece := stream.read(1 << 22):
            size += len(piece)
    print(f"sequential read of one cold tar: {size / (time.perf_counter() - start) / 1e6:.0f} MB/s")
    for path in folder.glob("*.tar"):
        with open(path, "rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    print(f"looksay, every byte checked, cold: {one('checked', folder, most):,.0f} samples/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "measure", "cold", "part"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--folder", default="cached")
    args = parser.parse_args()
    if args.what == "make":
        make(CACHE / args.folder, args.samples)
    elif args.what == "measure":
        measure(CACHE / "cached", 20_000)
    elif args.what == "cold":
        cold(CACHE / "cold", 100_000)
    else:
        part(*args.rest)


if __name__ == "__main__":
    main()
