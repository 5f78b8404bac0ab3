"""The loader end to end: read, check, decode, resize, patchify, tokenize, pack; against megatron-energon with its packing,
and the webdataset library with a plain collator. Samples a CPU second, one process, the same tars.

    python benchmarks/loading.py make           # photo crops and captions as a dataset (needs scikit-image)
    python benchmarks/loading.py measure        # ours and peers from benchmarks/.cache/loaders

All cut patches of 14 pixels, merged two by two, from pictures brought to whole cells by bicubic resampling, at most 256 tokens
each; all tokenize with the same tokenizer; rows have 4096 positions. Peers decode and resize with Pillow, as their users do.
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
CACHE = ROOT / ".cache" / "loading"
PYTHON = ROOT / ".cache" / "loaders" / "bin" / "python"
LENGTH, STEP_ROWS, STEPS = 4096, 16, 12


def make(copies: int = 10) -> None:
    """Each crop of the corpus under several captions, in a dataset of plain tars."""
    sys.path.insert(0, str(ROOT))
    import build_corpus
    from PIL import Image

    from configs.schema import BuildRecipe
    from data_pipeline.ingest.job import build
    from data_pipeline.stream.tokenizer import train_tokenizer

    shutil.rmtree(CACHE, ignore_errors=True)
    photos = CACHE / "photos"
    photos.mkdir(parents=True)
    corpus = build_corpus.mixed()
    random = np.random.default_rng(0)
    words = [
        "a",
        "photo",
        "of",
        "the",
        "old",
        "red",
        "house",
        "by",
        "sea",
        "with",
        "two",
        "trees",
        "and",
        "some",
        "people",
        "who",
        "look",
        "at",
        "small",
        "boats",
    ]
    for copy in range(copies):
        for name in corpus.files:
            stem = f"{copy:02d}-{Path(name).stem}"
            with Image.open(corpus.folder / name) as picture:
                picture.convert("RGB").resize((int(picture.width * 0.6), int(picture.height * 0.6))).save(
                    photos / f"{stem}.jpg", quality=int(random.integers(80, 96))
                )
            (photos / f"{stem}.txt").write_text(" ".join(random.choice(words, random.integers(6, 40))))
    recipe = BuildRecipe.model_validate(
        {
            "kind": "build",
            "name": "photos",
            "source": {"type": "folder", "path": str(photos)},
            "output": str(CACHE / "data"),
            "images": {"mode": "none", "format": "jpg", "quality": 92},
            "ray": {"workers": 0},
        }
    )
    build(recipe)
    train_tokenizer([str(CACHE / "data")], str(CACHE / "tokenizer"), 512)


def recipe() -> Any:
    from configs.schema import TrainRecipe

    return TrainRecipe.model_validate(
        {
            "kind": "train",
            "name": "loading",
            "model": {
                "encoder": {"type": "native_vit", "patch": 14, "width": 64, "depth": 1, "heads": 2, "mlp_width": 64},
                "resolution": {"type": "native", "min_tokens": 4, "max_tokens": 256},
                "projector": {"type": "pixel_shuffle_mlp", "factor": 2},
                "decoder": {"layers": 1, "width": 64, "heads": 2, "mlp_width": 64},
            },
            "data": {
                "sources": [{"path": str(CACHE / "data")}],
                "tokenizer": str(CACHE / "tokenizer"),
                "packing": {"length": LENGTH, "rows_per_step": STEP_ROWS, "window_steps": 16},
                "workers": 0,
            },
            "stage": {"kind": "caption", "steps": 1000, "train": {"projector": 0.001}},
        }
    )


def ours() -> None:
    from data_pipeline.stream.loader import Loader

    loader = Loader(recipe())
    loader.build(0)  # imports, compiled functions, the first plan
    start, samples, tokens = time.process_time(), 0, 0
    for step in range(1, STEPS):
        for batch in loader.build(step):
            samples += sum(len(row.samples) for row in batch.rows)
            tokens += batch.real_tokens
    seconds = time.process_time() - start
    print(json.dumps({"samples_per_s": samples / seconds, "fill": tokens / ((STEPS - 1) * STEP_ROWS * LENGTH)}))


PEER = r"""
import glob, io, json, math, sys, time
import numpy as np
from PIL import Image
kind, folder, tokenizer, count, length = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
from tokenizers import Tokenizer
tok = Tokenizer.from_file(tokenizer + "/tokenizer.json")
CELL, PATCH, MERGE, MOST = 28, 14, 2, 256
def patches(image):
    w, h = image.size
    rows, cols = max(1, round(h / CELL)), max(1, round(w / CELL))
    if rows * cols > MOST:
        s = math.sqrt(w * h / (MOST * CELL * CELL))
        rows, cols = max(1, math.floor(h / CELL / s)), max(1, math.floor(w / CELL / s))
    a = np.asarray(image.resize((cols * CELL, rows * CELL), Image.BICUBIC))
    a = a.reshape(rows, MERGE, PATCH, cols, MERGE, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    return np.ascontiguousarray(a.reshape(rows * cols * MERGE * MERGE, -1)), rows * cols
def made(jpg, text):
    image = Image.open(io.BytesIO(jpg)).convert("RGB") if isinstance(jpg, bytes) else jpg
    p, n = patches(image)
    ids = tok.encode(json.loads(text)["text"] if not isinstance(text, dict) else text["text"], add_special_tokens=False).ids
    return p, np.array([1] + [5] * n + ids + [4], np.int64)
def row(samples):
    ids = np.zeros(length, np.int64); at = 0
    for _, one in samples:
        ids[at:at + len(one)] = one; at += len(one)
    return np.concatenate([p for p, _ in samples]), ids, at
done, filled, rows = 0, 0, 0
if kind == "webdataset":
    import webdataset as wds
    data = wds.WebDataset(sorted(glob.glob(folder + "/*.tar")), shardshuffle=10).shuffle(1000)
    def stream():
        while True:
            yield from data
    it = iter(stream()); next(it)
    start = time.process_time()
    while done < count:  # a plain collator: a batch of 8, padded to its longest
        batch = [made(s["jpg"], s["json"]) for _, s in zip(range(8), it)]
        longest = max(len(i) for _, i in batch)
        ids = np.stack([np.pad(i, (0, longest - len(i))) for _, i in batch])
        p = np.concatenate([p for p, _ in batch])
        done += len(batch); filled += sum(len(i) for _, i in batch); rows += ids.size / length
else:
    from dataclasses import dataclass
    import torch
    from megatron.energon import DefaultTaskEncoder, WorkerConfig, get_train_dataset, get_loader, stateless
    from megatron.energon import Sample, Batch, CaptioningSample, SampleDecoder
    @dataclass
    class One(Sample):
        pixels: object; ids: object
    @dataclass
    class Row(Sample):
        pixels: object; ids: object; held: int; count: int
    class Encoder(DefaultTaskEncoder):
        decoder = SampleDecoder(image_decode="pil")
        @stateless
        def encode_sample(self, sample):
            p, ids = made(sample.image, json.dumps({"text": sample.caption}))
            return One.derive_from(sample, pixels=p, ids=ids)
        def select_samples_to_pack(self, samples):  # Megatron's greedy knapsack
            left = sorted(samples, key=lambda s: -len(s.ids)); out = []
            while left:
                room, pack, rest = length, [], []
                for s in left:
                    if len(s.ids) <= room: pack.append(s); room -= len(s.ids)
                    else: rest.append(s)
                out.append(pack); left = rest
            return out
        @stateless
        def pack_selected_samples(self, samples):
            p, ids, at = row([(s.pixels, s.ids) for s in samples])
            return Row.derive_from(samples[0], pixels=p, ids=ids, held=at, count=len(samples))
        def batch(self, samples): return samples
        def encode_batch(self, batch): return batch
    workers = WorkerConfig(rank=0, world_size=1, num_workers=0)
    data = get_train_dataset(folder, batch_size=1, shuffle_buffer_size=1000, max_samples_per_sequence=100,
                             packing_buffer_size=200, task_encoder=Encoder(), worker_config=workers)
    it = iter(get_loader(data)); next(it)
    start = time.process_time()
    while done < count:
        for one in next(it):
            done += one.count; filled += one.held; rows += 1
seconds = time.process_time() - start
print(json.dumps({"samples_per_s": done / seconds, "fill": filled / (rows * length)}))
"""


def energon_folder() -> Path:
    """The same tars with what energon wants beside them."""
    folder = CACHE / "energon"
    if (folder / ".nv-meta" / "dataset.yaml").exists():
        return folder
    folder.mkdir(exist_ok=True)
    for tar in (CACHE / "data").glob("*.tar"):
        shutil.copy(tar, folder / tar.name)
    command = [
        str(PYTHON.parent / "energon"),
        "prepare",
        "--non-interactive",
        "--split-ratio",
        "1,0,0",
        "--force-overwrite",
    ]
    command += [
        "--sample-type",
        "CaptioningSample",
        "--field-map",
        '{"image": "jpg", "caption": "json[text]"}',
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return folder


def one(command: list[str]) -> dict[str, float] | str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["taskset", "-c", "1", *command], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        return done.stderr.strip()[-300:]
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(count: int = 1500, runs: int = 3) -> None:
    tokenizer = str(CACHE / "tokenizer")
    commands = {
        "looksay": [sys.executable, __file__, "ours"],
        "megatron-energon, packing": [
            str(PYTHON),
            "-c",
            PEER,
            "energon",
            str(energon_folder()),
            tokenizer,
            str(count),
            str(LENGTH),
        ],
        "webdataset, padded batches": [
            str(PYTHON),
            "-c",
            PEER,
            "webdataset",
            str(CACHE / "data"),
            tokenizer,
            str(count),
            str(LENGTH),
        ],
    }
    found: dict[str, list[Any]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            found[name].append(one(command))
            print(name, found[name][-1], file=sys.stderr, flush=True)
    for name, results in found.items():
        rates = [r["samples_per_s"] for r in results if isinstance(r, dict)]
        fills = [r["fill"] for r in results if isinstance(r, dict)]
        print(
            f"| {name} | {np.median(rates):.0f} | {np.median(fills):.1%} |"
            if rates
            else f"| {name} | {results[-1]} | |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "measure", "ours"))
    {"make": make, "measure": measure, "ours": ours}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
