"""Datasets made directly, without a build: any pictures and texts as a folder of shards."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.ingest.cut import cut
from data_pipeline.ingest.units import Outcome
from data_pipeline.manifest import Manifest, write_manifest
from data_pipeline.sample import IMAGE_MARK, ImageInfo, Message, Sample, key_of

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
    outcomes = (Outcome(number, sample, None) for number, sample in enumerate(made))
    shards, totals = cut(outcomes, str(folder), shard_size)
    fingerprint = "-".join(entry.sha256["index"][:16] for entry in shards)
    write_manifest(str(folder), Manifest(folder.name, fingerprint, {}, shards, totals))
    return folder
