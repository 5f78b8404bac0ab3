"""Planning over a billion samples: memory, time to the first step, seeking; and how fast a planner is from its tables.

    python benchmarks/planning.py make --shards 100000 --lengths sft.npz
    python benchmarks/planning.py measure
    python benchmarks/planning.py remove

`make` writes a dataset of real counts (a file a shard, each sample drawn from the length set: its tiles as pictures of that
many tiles, its text as runs) and a real shard table, in benchmarks/.cache/billion; there are no tars, for planning reads
none. `measure` starts a process for each figure and prints a table.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent
FOLDER = ROOT / ".cache" / "billion"
PER_SHARD = 10_000
TILE = 448
LENGTH = 8192


def rss() -> float:
    """MB of this process now."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    with open("/proc/self/status") as stream:
        line = next(line for line in stream if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def recipe() -> Any:
    from configs.schema import TrainRecipe

    return TrainRecipe.model_validate(
        {
            "kind": "train",
            "name": "billion",
            "model": {
                "encoder": {"type": "native_vit", "patch": 14, "width": 64, "depth": 1, "heads": 2, "mlp_width": 64},
                "resolution": {"type": "tiles", "size": TILE, "max_tiles": 12, "thumbnail": True},
                "projector": {"type": "pixel_shuffle_mlp", "factor": 2},
                "decoder": {"layers": 1, "width": 64, "heads": 2, "mlp_width": 64},
            },
            "data": {
                "sources": [{"path": str(FOLDER / "data")}],
                "tokenizer": str(FOLDER / "tokenizer"),
                "packing": {"length": LENGTH, "rows_per_step": 512, "window_steps": 8},
            },
            "stage": {"kind": "sft", "steps": 10**7, "train": {"projector": 0.001}},
        }
    )


def make(shards: int, lengths: str) -> None:
    """The dataset: shard table, counts, and a tokenizer for their fingerprint."""
    from data_pipeline.manifest import Manifest, write_manifest
    from data_pipeline.shard_table import ShardEntry, ShardTable
    from data_pipeline.stream.chat import Chat
    from data_pipeline.stream.counts.make import counts_folder
    from data_pipeline.stream.read.dataset import Dataset

    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "data").mkdir(parents=True)
    _tokenizer(FOLDER / "tokenizer")
    blank = {"tar": "0" * 64, "index": "0" * 64, "outcomes": "0" * 64}
    entries = tuple(ShardEntry(f"{n:05d}", PER_SHARD, PER_SHARD, PER_SHARD * 50_000, blank) for n in range(shards))
    total = shards * PER_SHARD
    totals = {
        "rows": total,
        "kept": total,
        "rejected": {},
        "pictures_per_sample": {"1": total},
        "bytes": total * 50_000,
    }
    write_manifest(str(FOLDER / "data"), Manifest("billion", "billion", {}, ShardTable(entries), totals))
    known = recipe()
    dataset = Dataset(str(FOLDER / "data"))
    folder = Path(counts_folder(dataset, Chat(known.data.tokenizer, known.data.template)))
    folder.mkdir(parents=True)
    pool = _Pool(lengths)
    start = time.perf_counter()
    for number in range(shards):
        (folder / f"{number:05d}.counts").write_bytes(pool.shard(number))
        if number % 5000 == 4999:
            print(f"{number + 1} shards, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    from configs.data import TemplateConfig

    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.add_special_tokens(list(TemplateConfig().marks))
    tokenizer.save(str(folder / "tokenizer.json"))


class _Pool:
    """A length set as counts: sizes of pictures that come to its tiles, and text for the rest of its tokens."""

    def __init__(self, lengths: str):
        data = np.load(lengths, allow_pickle=False)
        tiles = np.round(data["vision"] / float(data["vision_unit"])).astype(np.int64)
        text = np.maximum(8, data["tokens"] - 256 * tiles)
        sizes, self.pictures, runs = [], [0], []
        for count, words in zip(tiles.tolist(), text.tolist(), strict=True):
            while count:
                part = min(count, 13)
                part = 1 if part == 2 else part  # two tiles are a thumbnail and one tile: no shape has that
                across = max(1, part - 1)
                sizes.append((TILE * across, TILE))
                count -= part
            self.pictures.append(len(sizes))
            runs.append((words // 2, words - words // 2))
        self.sizes, self.runs = np.array(sizes, np.int64), np.array(runs, np.int64)
        self.starts = np.array(self.pictures)

    def shard(self, number: int) -> bytes:
        from data_pipeline.stream.counts.format import Counts, to_bytes

        chosen = np.random.default_rng(number).integers(0, len(self.runs), PER_SHARD)
        held = np.diff(self.starts)[chosen]
        ends = np.cumsum(held)
        places = np.arange(ends[-1]) + np.repeat(self.starts[:-1][chosen] - (ends - held), held)
        key = np.char.zfill((np.arange(PER_SHARD) + number * PER_SHARD).astype("S12"), 12)
        counts = Counts(
            key,
            np.ones(PER_SHARD, np.int64),
            np.concatenate([[0], ends]),
            self.sizes[places],
            np.arange(PER_SHARD + 1) * 2,
            self.runs[chosen].reshape(-1),
        )
        return to_bytes(counts)


def imported() -> None:
    """Everything that a planner imports, and its compiled kernels."""
    import pyarrow.parquet  # noqa: F401

    import data_pipeline.stream.tables  # noqa: F401
    from data_pipeline.stream.plan.bare import LengthSet, pack_epoch
    from data_pipeline.stream.plan.window import PlanSettings

    random = np.random.default_rng(0)
    tiny = LengthSet(random.integers(10, 900, 500), random.integers(0, 3, 500), 1.0)
    list(pack_epoch(tiny, PlanSettings(1024, 64, 1, 64), 0))


def part(name: str, log: str) -> dict[str, Any]:
    """One figure, in this process."""
    imported()
    before = rss()
    start = time.perf_counter()
    from data_pipeline.stream.tables import open_data

    planner = open_data(recipe(), plan_log=log, write_log=name == "plan").planner
    opened = time.perf_counter() - start
    first = planner.step(0)
    out = {"open_s": opened, "first_step_s": time.perf_counter() - start, "rows": len(first)}
    if name == "plan":
        start, samples = time.perf_counter(), 0
        for window in range(1, WINDOWS):
            samples += len(planner.window(window).samples)
        out |= {"samples_per_s": samples / (time.perf_counter() - start), "state_bytes": _state_bytes(planner)}
        hashes = [_hash(planner, step) for step in range(WINDOWS * 8)]
        Path(log + ".hashes").write_text(json.dumps(hashes))
    if name == "seek":
        hashes = json.loads(Path(log + ".hashes").read_text())
        seconds, wrong = [], 0
        for step in np.random.default_rng(1).integers(0, len(hashes), SEEKS).tolist():
            at = time.perf_counter()
            planner.step(step)
            seconds.append(time.perf_counter() - at)
            wrong += _hash(planner, step) != hashes[step]
        out |= {"seeks": SEEKS, "wrong": wrong, "seek_p50_s": float(np.median(seconds)), "seek_max_s": max(seconds)}
    return {**out, "rss_growth_mb": rss() - before, "peak_growth_mb": peak() - before}


WINDOWS = 100
SEEKS = 1000


def _state_bytes(planner: Any) -> int:
    return max(len(json.dumps(planner.state(window * 8))) for window in range(1, WINDOWS))


def _hash(planner: Any, step: int) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(planner.step(step).to_bytes())


def measure() -> None:
    log = str(FOLDER / "plan.log")
    for name in ("first", "plan", "seek"):
        if name == "plan":
            Path(log).unlink(missing_ok=True)
        command = [sys.executable, __file__, "part", name, log]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(name, done.stdout.strip() or done.stderr[-2000:], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "measure", "part", "remove"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--lengths", help="a length set: tokens, vision, vision_unit")
    args = parser.parse_args()
    if args.what == "make":
        make(args.shards, args.lengths)
    elif args.what == "measure":
        measure()
    elif args.what == "part":
        print(json.dumps(part(*args.rest)))
    else:
        shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main()
