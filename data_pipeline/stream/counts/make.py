"""Counting: every sample's text tokenized once per dataset, tokenizer and template."""

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

from configs.data import TemplateConfig
from data_pipeline.storage import exists, join, listdir, put
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.counts.format import Counts, to_bytes
from data_pipeline.stream.read.dataset import BadSample, Dataset

VERSION = 2
ALONE = 20_000
"""So many samples are counted by this process itself: starting others would take longer."""


def counts_fingerprint(chat: Chat) -> str:
    """Identity of the counts: tokenizer, template, and the rules in chat.py (VERSION)."""
    tokenizer = (Path(chat.folder) / "tokenizer.json").read_bytes()
    template = json.dumps(chat.template.identity, sort_keys=True)
    return hashlib.sha256(f"{VERSION}:{template}:".encode() + tokenizer).hexdigest()[:16]


def counts_folder(dataset: Dataset, chat: Chat) -> str:
    return join(join(dataset.folder, "tokens"), counts_fingerprint(chat))


def ensure_counts(dataset: Dataset, chat: Chat, *, progress: bool = True) -> dict[str, bytes]:
    """Count the shards that are not counted yet.

    Returns:
        Counts by shard, of those that could not be stored beside the dataset: they serve this start only.
    """
    folder = counts_folder(dataset, chat)
    whole = join(folder, f"whole-{dataset.identity[:16]}")  # saves listing 100,000 names at every start
    if exists(whole):
        return {}
    there = set(listdir(folder))
    missing = [n for n, name in enumerate(dataset.shards) if f"{name}.counts" not in there]
    missing = [n for n in missing if dataset.starts[n + 1] > dataset.starts[n]]
    unstored: dict[str, bytes] = {}
    total = sum(int(dataset.starts[n + 1] - dataset.starts[n]) for n in missing)
    quiet = not progress or total < ALONE
    with tqdm(total=total, desc=f"tokens of {dataset.name}", unit="sample", disable=quiet, file=sys.stderr) as bar:
        for number, data in _counted(dataset, chat, missing, total):
            name = dataset.shards[number]
            if not _kept(join(folder, f"{name}.counts"), data):
                unstored[name] = data
            bar.update(int(dataset.starts[number + 1] - dataset.starts[number]))
    if not unstored:
        _kept(whole, b"")
    return unstored


def _counted(dataset: Dataset, chat: Chat, missing: list[int], total: int) -> Iterator[tuple[int, bytes]]:
    processes = min(len(os.sched_getaffinity(0)), len(missing))
    if processes == 1 or total < ALONE:
        for number in missing:
            yield number, to_bytes(count_shard(dataset, chat, number))
        return
    template = chat.template.model_dump_json()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        tasks = {pool.submit(_count_in_child, dataset.folder, chat.folder, template, n): n for n in missing}
        for task in as_completed(tasks):
            yield tasks.pop(task), task.result()


def _count_in_child(folder: str, tokenizer: str, template: str, number: int) -> bytes:
    chat = Chat(tokenizer, TemplateConfig.model_validate_json(template))
    return to_bytes(count_shard(Dataset(folder), chat, number))


def _kept(path: str, data: bytes) -> bool:
    """Store the counts, unless the dataset lies where nothing can be written: then each start counts again."""
    try:
        put(path, data)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        logging.getLogger(__name__).warning("%s cannot be written (%s): counted for this start only", path, error)
        return False
    return True


def count_shard(dataset: Dataset, chat: Chat, number: int) -> Counts:
    """Counts of every sample of a shard; one whose text is bad has none."""
    keys, last, pictures, sizes, run_starts, runs = [], [], [0], [], [0], []
    for index in range(int(dataset.starts[number]), int(dataset.starts[number + 1])):
        own = dataset.sizes(index)
        before = 0
        try:
            encoded = chat.encode(dataset.conversation(index), len(own))
            runs += encoded.runs
            before = encoded.last_image
        except (BadSample, ValueError):
            logging.getLogger(__name__).debug("sample %d of %s has no readable text", index, dataset.name)
        keys.append(dataset.key(index))
        sizes += own
        last.append(before)
        pictures.append(len(sizes))
        run_starts.append(len(runs))
    return Counts(
        np.array(keys, np.bytes_),
        np.array(last, np.int64),
        np.array(pictures, np.int64),
        np.array(sizes, np.int64).reshape(-1, 2),
        np.array(run_starts, np.int64),
        np.array(runs, np.int64),
    )
