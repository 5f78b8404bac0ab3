"""Token counts of a dataset under a tokenizer and template, made once: DATASET/tokens/FINGERPRINT/NNNNN.parquet."""

import errno
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.shard import read_table, table_bytes
from data_pipeline.storage import exists, join, put, read_bytes
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.reader import BadSample, Dataset

VERSION = 1


def tokens_fingerprint(chat: Chat) -> str:
    """Identity of the counts: tokenizer, template, and the rules in chat.py (VERSION)."""
    tokenizer = (Path(chat.folder) / "tokenizer.json").read_bytes()
    template = json.dumps(chat.template.model_dump(), sort_keys=True)
    return hashlib.sha256(f"{VERSION}:{template}:".encode() + tokenizer).hexdigest()[:16]


def token_counts(dataset: Dataset, chat: Chat) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(text tokens, label tokens) of every sample; 0 text tokens marks one whose bytes are bad."""
    folder = join(join(dataset.folder, "tokens"), tokens_fingerprint(chat))
    text, labels = [], []
    for number, shard in enumerate(dataset.shards):
        path = join(folder, f"{shard}.parquet")
        if not exists(path):
            table = _count(dataset, chat, int(dataset.starts[number]), int(dataset.starts[number + 1]))
            _keep(path, table)
        else:
            table = read_table(read_bytes(path))
        text.append(np.asarray(table.column("text_tokens"), np.int32))
        labels.append(np.asarray(table.column("label_tokens"), np.int32))
    return np.concatenate(text), np.concatenate(labels)


def _keep(path: str, table: pa.Table) -> None:
    """Store the counts, unless the dataset lies where nothing can be written: then each start counts again."""
    try:
        put(path, table_bytes(table))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        logging.getLogger(__name__).warning("%s cannot be written (%s): counted for this start only", path, error)


def _count(dataset: Dataset, chat: Chat, start: int, stop: int) -> pa.Table:
    text, labels = [], []
    for index in range(start, stop):
        try:
            encoded = chat.encode(dataset.conversation(index), len(dataset.sizes(index)))
            text.append(encoded.text_tokens)
            labels.append(encoded.label_tokens)
        except (BadSample, ValueError):
            text.append(0)
            labels.append(0)
    return pa.table({"text_tokens": pa.array(text, pa.int32()), "label_tokens": pa.array(labels, pa.int32())})
