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
    import importlib.machinery, types  # it imports torchvision for datasets that are not used here
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules["torchvision.datasets"].VisionDataset = object
    sys.modules["torchvision.transforms.functional"].to_tensor = None
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
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


def index() -> None:
    """Adopting tars: everything read once, every member hashed, every picture's header read."""
    import io

    from PIL import Image

    from data_pipeline.ingest.adopt import index_tar
    from data_pipeline.sample import ImageInfo, Sample, key_of
    from data_pipeline.shard import encode_sample, tar_end

    folder = CACHE / "foreign"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sink = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (192, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(sink, "JPEG", quality=92)
    with open(folder / "a.tar", "wb") as stream:
        at = 0
        for number in range(10_000):
            sample = Sample(key_of(number), (sink.getvalue(),), ("jpg",), (ImageInfo(256, 192),), "a caption")
            pieces, size, _ = encode_sample(sample)
            stream.writelines(pieces)
            at += size
        stream.write(tar_end(at))
    for _ in range(3):
        start, cpu = time.perf_counter(), time.process_time()
        found = index_tar(folder / "a.tar")
        wall, used = time.perf_counter() - start, time.process_time() - cpu
        print(
            f"{found.entry.bytes / 1e6:.0f} MB, {found.entry.samples} samples: {found.entry.bytes / 1e6 / used:.0f} MB/s and core ({wall:.2f} s)"
        )


def s3(batches: int = 250) -> None:
    """Waits for a batch of 16 from a real S3 server, healthy and behind a proxy that spoils 5 % and stalls 2 % for 10 s."""
    import random
    import tempfile

    sys.path.insert(0, str(ROOT.parent))
    from configs.data import ReadConfig
    from configs.ingest import StorageConfig
    from data_pipeline import storage
    from data_pipeline.stream.read.dataset import BadSample, Dataset
    from tests.support.fault_proxy import Fault, FaultProxy
    from tests.support.s3_server import S3Server

    class Spoiling(FaultProxy):
        rate, chance = (0.0, 0.0), random.Random(3)

        def _fault(self, line: str) -> Fault | None:
            errors, stalls = self.rate if ".tar" in line else (0.0, 0.0)
            number = self.chance.random()
            if number < errors:
                return Fault("busy" if number < errors / 2 else "reset")
            return Fault("slow", seconds=10.0) if number < errors + stalls else None

    local = CACHE / "s3"
    make(local, 4000)
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder) / "s3")
        server.start()
        os.environ.update(server.environment())
        try:
            proxy = Spoiling(server.endpoint_url)
            storage.configure(StorageConfig(endpoint_url=proxy.url))
            remote = server.fresh()
            for path in local.iterdir():
                storage.put(storage.join(remote, path.name), path.read_bytes())
            order = np.random.default_rng(1).permutation(4000)[: batches * 16].reshape(-1, 16).tolist()
            wanted, found = Dataset(str(local)), {}
            for name, rate in (("healthy", (0.0, 0.0)), ("spoiled", (0.05, 0.02))):
                proxy.rate = rate
                dataset = Dataset(remote, ReadConfig())
                dataset.read_many(order[0])
                found[name] = _waits(dataset, order, wanted, BadSample)
                hedges = dataset._tars.hedged.hedges  # type: ignore[union-attr]
                p50, p99 = np.percentile(found[name], [50, 99])
                print(
                    f"| {name} | {p50 * 1e3:.0f} | {p99 * 1e3:.0f} | {max(found[name]) * 1e3:.0f} | {hedges} |",
                    flush=True,
                )
        finally:
            server.kill()


def _waits(dataset: Any, order: list[list[int]], wanted: Any, bad: type) -> list[float]:
    """Seconds that a trainer waits for each batch, with four batches asked for ahead of it."""
    from concurrent.futures import ThreadPoolExecutor

    seconds = []
    with ThreadPoolExecutor(4) as pool:
        ahead = [pool.submit(dataset.read_many, batch) for batch in order[:4]]
        for number, batch in enumerate(order):
            start = time.perf_counter()
            samples = ahead.pop(0).result()
            seconds.append(time.perf_counter() - start)
            if number + 4 < len(order):
                ahead.append(pool.submit(dataset.read_many, order[number + 4]))
            for sample, index in zip(samples, batch, strict=True):
                assert not isinstance(sample, bad) and bytes(sample.body) == bytes(wanted.read(index).body), (
                    "order changed"
                )
            time.sleep(0.05)  # the step
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "measure", "cold", "s3", "index", "part"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--folder", default="cached")
    args = parser.parse_args()
    if args.what == "make":
        make(CACHE / args.folder, args.samples)
    elif args.what == "measure":
        measure(CACHE / "cached", 20_000)
    elif args.what == "s3":
        s3()
    elif args.what == "index":
        index()
    elif args.what == "cold":
        cold(CACHE / "cold", 100_000)
    else:
        part(*args.rest)


if __name__ == "__main__":
    main()
