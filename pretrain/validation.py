"""Validation on a fixed plan: held-out loss, and the same pictures' answers over time.

The held-out samples, their order and their rows are the same at every validation and for any number of ranks.
"""

from typing import Any

import torch
import torch.distributed as dist

from configs.encoders import Cnn
from configs.schema import TrainRecipe
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.collate import Ready, collate
from data_pipeline.stream.images import decode
from data_pipeline.stream.layout import geometry_of
from data_pipeline.stream.read.dataset import Dataset
from pretrain.engine import Engine
from pretrain.features import FeatureCache
from pretrain.generate import Generator, Prompt
from pretrain.mesh import Mesh
from pretrain.model.inputs import to_inputs
from pretrain.model.vlm import VisionLanguageModel

ROWS = 4
"""Rows of one forward: fixed, so that every rank makes as many."""


class Validation:
    """What `evaluate.source` asks for; `run` is a collective."""

    def __init__(self, recipe: TrainRecipe, mesh: Mesh, engine: Engine, model: VisionLanguageModel, chat: Chat):
        self.recipe, self.mesh, self.engine, self.model, self.chat = recipe, mesh, engine, model, chat
        self.geometry = geometry_of(recipe.model)
        self.cnn = isinstance(recipe.model.encoder, Cnn)
        self.dataset: Dataset | None = None
        self.features: FeatureCache | None = None
        if recipe.evaluate.source is None:
            return
        self.dataset = Dataset(recipe.evaluate.source)
        if recipe.data.cache_features:
            self.features = FeatureCache(recipe.model, [self.dataset])
            self.features.fill(mesh)
        count = min(recipe.evaluate.samples, len(self.dataset))
        # Spread over the whole dataset rather than its first shard.
        self.chosen = [i * len(self.dataset) // count for i in range(count)]
        self.rows = self._pack()

    def ready(self, index: int) -> Ready:
        """A held-out sample with pixels or features."""
        assert self.dataset is not None
        stored, sizes = self.dataset.read(index), self.dataset.sizes(index)
        encoded = self.chat.encode(stored.conversation, len(sizes))
        if self.features is not None:
            return Ready(encoded, sizes, features=self.features.get(0, index))
        return Ready(encoded, sizes, images=[decode(data) for data in stored.images])

    def _pack(self) -> list[list[int]]:
        """First-fit rows of sample indices; a sample longer than a row is left out."""
        from data_pipeline.stream.collate import widen

        length, used = self.recipe.data.packing.length, 0
        rows: list[list[int]] = [[]]
        assert self.dataset is not None
        for index in self.chosen:
            sizes = self.dataset.sizes(index)
            count = len(
                widen(self.chat.encode(self.dataset.read(index).conversation, len(sizes)), sizes, self.geometry).ids
            )
            if count > length:
                continue
            if used + count > length:
                rows, used = [*rows, []], 0
            rows[-1].append(index)
            used += count
        return rows

    def run(self, step: int) -> dict[str, Any] | None:
        """{numbers: {loss, tokens}, answers: rows for predictions.jsonl}; None where nothing is held out."""
        if self.dataset is None:
            return None
        loss, weight = self._loss()
        answers = self._answers()
        return {
            "numbers": {"loss": loss / weight if weight else float("nan"), "tokens": int(weight)},
            "answers": answers,
        }

    def _loss(self) -> tuple[float, float]:
        mesh, length = self.mesh, self.recipe.data.packing.length
        batches = -(-len(self.rows) // (ROWS * mesh.dp_size))
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for number in range(batches):
                first = (number * mesh.dp_size + mesh.dp_rank) * ROWS
                rows = [self.rows[r] if r < len(self.rows) else [] for r in range(first, first + ROWS)]
                ready = [[self.ready(index) for index in row] for row in rows]
                batch = collate(
                    ready, length, self.geometry, self.chat.pad_id, cnn=self.cnn, cached=self.features is not None
                )
                out = self.engine.forward(to_inputs(batch, mesh.device))
                sums += torch.tensor([float(out.loss_sum), float(out.weight_sum)], dtype=torch.float64)
        sums = sums.to(mesh.device)
        if mesh.dp_size > 1:
            dist.all_reduce(sums, group=mesh.dp_group)
        return float(sums[0]), float(sums[1])

    def _answers(self) -> list[dict[str, Any]]:
        """What the model says about the first pictures; every rank answers all of them, in lockstep."""
        assert self.dataset is not None
        prompts, rows = [], []
        for index in self.chosen[:: max(1, len(self.chosen) // max(1, self.recipe.evaluate.pictures))][
            : self.recipe.evaluate.pictures
        ]:
            stored = self.dataset.read(index)
            talk = stored.conversation
            messages = None if talk.messages is None else talk.messages[:1]
            truth = talk.text if talk.messages is None else talk.messages[1].content
            pictures = len(self.dataset.sizes(index)) if messages is None else messages[0].content.count("<image>")
            sample = self.ready(index)
            prompts.append(
                Prompt(
                    self.chat.prompt(messages, pictures),
                    list(sample.sizes)[:pictures],
                    images=None if sample.images is None else list(sample.images)[:pictures],
                    features=None if sample.features is None else list(sample.features)[:pictures],
                )
            )
            prompt = "" if messages is None else messages[0].content.replace("<image>", "")
            rows.append({"index": index, "key": self.dataset.key(index), "prompt": prompt, "truth": truth})
        if not prompts:
            return []
        generator = Generator(self.model, self.chat, self.geometry, self.mesh, fixed_steps=True)
        for row, answer in zip(rows, generator.answer(prompts, max_new=20), strict=True):
            row["text"] = answer.text
        return rows
