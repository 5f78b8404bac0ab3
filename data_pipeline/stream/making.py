"""Planned rows -> batches: read, decode, tokenize, collate. A pure function of the plan and of what the bytes are."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.chat import Chat, Encoded
from data_pipeline.stream.collate import Ready, collate
from data_pipeline.stream.images import decode
from data_pipeline.stream.layout import Geometry, Layout, fit_sample, layout
from data_pipeline.stream.plan.rows import Drawn
from data_pipeline.stream.read.dataset import BadSample, Dataset, StoredSample

Counts = tuple[int, int, int, int]
"""(tokens, labels, visual tokens, patches) of a sample."""


class Features(Protocol):
    """Cached encoder output: a list of [tokens, C] for the pictures of a sample."""

    def get(self, source: int, index: int) -> list[np.ndarray]: ...


class Maker:
    """Makes micro-steps. Holds no state of the stream, so any number of makers give the same batches.

    Args:
        datasets, labels: of each source, in the recipe's order.
        features: where given, pictures are not decoded.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        labels: Sequence[str],
        chat: Chat,
        geometry: Geometry,
        *,
        length: int,
        long_samples: str,
        cnn: bool,
        features: Features | None = None,
    ):
        self.datasets, self.labels, self.chat, self.geometry = datasets, labels, chat, geometry
        self.length, self.long_samples, self.cnn, self.features = length, long_samples, cnn, features
        self._encoded: dict[tuple[int, int], Encoded] = {}

    def batch(self, rows: Sequence[Drawn | None], numbers: Sequence[int], denominator: float) -> Batch:
        """One micro-step.

        Args:
            rows: planned samples of each row; None for a dummy.
            numbers: of each row within its step, -1 for a dummy.
            denominator: N of the step.

        Raises:
            RunError: the storage did not answer; a bad sample is no error, it becomes a filler.
        """
        ready = self._ready([row for row in rows if row is not None])
        made = [next(ready) if row is not None else [] for row in rows]
        return collate(
            made,
            self.length,
            self.geometry,
            self.chat.pad_id,
            cnn=self.cnn,
            cached=self.features is not None,
            denominator=denominator,
            numbers=numbers,
        )

    def _ready(self, rows: list[Drawn]) -> Any:
        """Samples of each row; what one source has to read for all of them is read together."""
        stored = self._stored(rows)
        at = 0
        for row in rows:
            yield [self._sample(row, k, stored[at + k]) for k in range(len(row))]
            at += len(row)

    def _stored(self, rows: list[Drawn]) -> list[StoredSample | BadSample | None]:
        """What is stored of every sample, in order; None where nothing has to be read."""
        if not rows:
            return []
        samples = Drawn.joined(rows)
        found: list[StoredSample | BadSample | None] = [None] * len(samples)
        if self.features is not None:
            return found
        for source in np.unique(samples.source).tolist():
            places = np.flatnonzero(samples.source == source).tolist()
            read = self.datasets[source].read_many(samples.index[places].tolist())
            for place, what in zip(places, read, strict=True):
                found[place] = what
        return found

    def _sample(self, row: Drawn, k: int, stored: StoredSample | BadSample | None) -> Ready:
        source, index = int(row.source[k]), int(row.index[k])
        dataset = self.datasets[source]
        info = {
            "source": self.labels[source],
            "epoch": int(row.epoch[k]),
            "shard": dataset.shards[int(row.shard[k])],
            "key": row.key[k].decode(),
        }
        sizes = dataset.sizes(index)
        planned = (int(row.tokens[k]), int(row.labels[k]), int(row.visual[k]), int(row.patches[k]))
        try:
            if isinstance(stored, BadSample):
                raise stored
            if stored is None:
                encoded = self._from_cache(source, index, len(sizes))
                planned_layout = self._layout(encoded, sizes, planned)
                assert self.features is not None
                return Ready(
                    encoded, sizes, features=self.features.get(source, index), info=info, planned=planned_layout
                )
            encoded = self.chat.encode(stored.conversation, len(sizes))
            planned_layout = self._layout(encoded, sizes, planned)
            images = [decode(data) for data in stored.images]
            _check_sizes(images, sizes)
            return Ready(encoded, sizes, images=images, info=info, planned=planned_layout)
        except UserError:
            raise
        except ValueError as error:  # BadSample is one
            return self._filler(source, index, sizes, planned, {**info, "filler": str(error)})

    def _from_cache(self, source: int, index: int, pictures: int) -> Encoded:
        """Where features are cached, so is the text: small sets that are seen many times."""
        key = (source, index)
        if key not in self._encoded:
            self._encoded[key] = self.chat.encode(self.datasets[source].conversation(index), pictures)
        return self._encoded[key]

    def _layout(self, encoded: Encoded, sizes: list[tuple[int, int]], planned: Counts) -> Layout:
        """How the sample is laid out, which must be just what was planned.

        Raises:
            ValueError: its text or pictures are not those that were counted.
        """
        found: Layout | None = layout(sizes, encoded.text_tokens, encoded.label_tokens, self.geometry)
        if found is not None and found.tokens > self.length:
            text = (encoded.text_tokens, encoded.runs, encoded.last_image)
            found = fit_sample(sizes, *text, self.geometry, self.length, self.long_samples)
        counts = None
        if found is not None:
            counts = (found.tokens, found.label_tokens, found.visual_tokens, found.patches)
        if found is None or counts != planned:
            raise ValueError(f"it holds (tokens, labels, visual tokens, patches) {counts}, the plan counted {planned}")
        return found

    def _filler(
        self, source: int, index: int, sizes: list[tuple[int, int]], planned: Counts, info: dict[str, Any]
    ) -> Ready:
        """A sample whose bytes are wrong: of the planned shape, without loss, on any topology."""
        text = planned[0] - planned[2]
        # Pictures that were shrunk to fit beside so much text are shrunk again, to the same.
        policy = self.long_samples if self.long_samples == "shrink-image" else "reject"
        shape = fit_sample(sizes, text, [text], 0, self.geometry, self.length, policy)
        assert shape is not None, "a sample was planned that fits no row"
        ids = np.full(text + len(sizes), self.chat.pad_id, np.int64)
        slots = np.arange(len(sizes), dtype=np.int64)
        ids[slots] = self.chat.image_id
        encoded = Encoded(ids, np.zeros(len(ids), bool), slots, self.chat.picture_marks)
        features = None
        if self.features is not None:
            features = [np.zeros_like(part) for part in self.features.get(source, index)]
        return Ready(encoded, sizes, features=features, info=info, learn=False, planned=shape)


def _check_sizes(images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]]) -> None:
    for image, size in zip(images, sizes, strict=True):
        if image.shape[1::-1] != size:
            raise ValueError(
                f"a picture of {image.shape[1]} x {image.shape[0]} pixels, the index says {size[0]} x {size[1]}"
            )
