"""Datasets made directly, without a build: any pictures and texts as a folder of shards."""

import io
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from configs.ingest import StorageConfig
from data_pipeline.ingest.cut import CutJob, slices, write_shard
from data_pipeline.ingest.unit_file import UnitWriter, unit_path
from data_pipeline.manifest import Manifest, write_manifest
from data_pipeline.sample import IMAGE_MARK, ImageInfo, Message, Sample, key_of
from data_pipeline.shard_table import ShardTable

WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "square",
    "circle",
    "of",
    "small",
    "big",
    "picture",
    "with",
    "the",
    "dark",
    "bright",
    "corner",
    "and",
    "noise",
]
SIZES = ((28, 28), (56, 28), (28, 84), (56, 56), (84, 56))


def picture(seed: int, width: int, height: int) -> bytes:
    """PNG of noise: every picture is another."""
    sink = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def samples(
    count: int, seed: int = 0, talk: bool = False, sizes: Sequence[tuple[int, int]] = SIZES
) -> Iterable[Sample]:
    """Captions or conversations with one to three pictures of several sizes."""
    random = np.random.default_rng(seed)
    for number in range(count):
        chosen = [sizes[k] for k in random.integers(0, len(sizes), random.choice([1, 1, 2, 3]))]
        words = [" ".join(random.choice(WORDS, random.integers(3, 12))) for _ in chosen]
        messages, text = None, None
        if talk:
            pairs = [(Message("user", f"{IMAGE_MARK}what is {w[:9]}?"), Message("assistant", w[-9:])) for w in words]
            messages = tuple(message for pair in pairs for message in pair)
        elif len(chosen) == 1:
            text = words[0]
        else:
            text = "".join(IMAGE_MARK + w for w in words)
        yield Sample(
            key_of(number),
            tuple(picture(seed * 10_000 + number * 10 + k, *size) for k, size in enumerate(chosen)),
            ("png",) * len(chosen),
            tuple(ImageInfo(*size) for size in chosen),
            text,
            messages,
            {"row": number},
        )


def write_dataset(folder: Path, made: Iterable[Sample], shard_size: int = 20) -> Path:
    """A dataset folder of these samples."""
    writer, pictures = UnitWriter(), Counter[str]()
    for number, sample in enumerate(made):
        writer.keep(number, sample)
        pictures[str(len(sample.images))] += 1
    return write_unit(folder, writer, shard_size, pictures)


def write_unit(folder: Path, writer: UnitWriter, shard_size: int, pictures: dict[str, int]) -> Path:
    """A dataset folder of the outcomes of one unit, whose samples have so many pictures."""
    work = folder / "work"
    totals = writer.commit(unit_path(str(work), 0))
    job = CutJob(StorageConfig(), str(work), str(folder), None, 1)
    shards = tuple(write_shard(job, part)[0] for part in slices(np.array([totals.kept]), shard_size))
    shutil.rmtree(work)
    rejected = dict(sorted(totals.rejected.items()))
    said = {
        "rows": totals.kept + sum(rejected.values()),
        "kept": totals.kept,
        "rejected": rejected,
        "pictures_per_sample": dict(sorted(pictures.items())),
        "bytes": sum(entry.bytes for entry in shards),
    }
    fingerprint = "-".join(entry.sha256["index"][:16] for entry in shards)
    write_manifest(str(folder), Manifest(folder.name, fingerprint, {}, ShardTable(shards), said))
    return folder
