"""Answers about pictures: greedy or sampled, batched, with a KV cache.

Prompts of exactly equal length run together (no padding, so one position table and plain causal attention serve
all). TP ranks hold equal logits after a gather and draw from equally seeded generators: they agree on every token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.stream.chat import Chat, Encoded
from data_pipeline.stream.collate import Ready, collate, widen
from data_pipeline.stream.layout import Geometry
from pretrain.mesh import Mesh, alone
from pretrain.model.cache import KeyValueCache
from pretrain.model.inputs import to_inputs
from pretrain.model.vlm import VisionLanguageModel

GROUP = 256
"""Most sequences of one group."""


@dataclass(frozen=True)
class Prompt:
    """What stands before an answer: tokens, and pictures [H, W, 3] or their cached features [tokens, C]."""

    encoded: Encoded
    sizes: Sequence[tuple[int, int]]
    images: Sequence[np.ndarray] | None = None
    features: Sequence[np.ndarray] | None = None


@dataclass(frozen=True)
class Answer:
    """Generated ids (without the end mark), their text, and the log-probability of each id (and of the end)."""

    ids: list[int]
    text: str
    logprobs: list[float]


class Generator:
    """Generation and scoring with one model.

    Args:
        fixed_steps: always make `max_new` steps. For a model under ZeRO-3, whose ranks must call equally often.
    """

    def __init__(
        self, model: VisionLanguageModel, chat: Chat, geometry: Geometry, mesh: Mesh, fixed_steps: bool = False
    ):
        self.model, self.chat, self.geometry, self.mesh, self.fixed_steps = model, chat, geometry, mesh, fixed_steps

    def answer(
        self,
        prompts: Sequence[Prompt],
        max_new: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> list[Answer]:
        """One answer a prompt, in order. temperature 0 is greedy."""
        answers: list[Answer | None] = [None] * len(prompts)
        source = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for group in self.groups(prompts):
                hidden, cache = self.prefill([prompts[i] for i in group], max_new)
                made = self.grow(hidden, cache, max_new, temperature, top_p, top_k, source)
                for index, answer in zip(group, made, strict=True):
                    answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def groups(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Indices of prompts of equal widened length, at most GROUP together."""
        by_length: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            by_length.setdefault(len(widen(prompt.encoded, prompt.sizes, self.geometry).ids), []).append(index)
        return [
            members[i : i + GROUP] for _, members in sorted(by_length.items()) for i in range(0, len(members), GROUP)
        ]

    def prefill(self, prompts: Sequence[Prompt], room: int) -> tuple[Tensor, KeyValueCache]:
        """Run prompts of equal length: last hidden state of each [S, W], and the cache with `room` more positions."""
        rows = [[Ready(p.encoded, p.sizes, images=p.images, features=p.features)] for p in prompts]
        length = len(widen(prompts[0].encoded, prompts[0].sizes, self.geometry).ids)
        cnn = bool(self.model.frozen_cnn)
        inputs = to_inputs(collate(rows, length, self.geometry, self.chat.pad_id, cnn=cnn), self.mesh.device)
        cache = KeyValueCache(len(prompts), length + room)
        x = self.model.embed(inputs, self.model.encode(inputs))
        hidden = self.model.step(x, inputs.positions, cache, self.model.routes(inputs))
        return hidden.view(len(prompts), length, -1)[:, -1], cache

    def grow(
        self,
        hidden: Tensor,
        cache: KeyValueCache,
        max_new: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        source: torch.Generator | None = None,
    ) -> list[Answer]:
        """One answer for each of S prefilled sequences, from their last hidden states [S, W]."""
        ids: list[list[int]] = [[] for _ in range(len(hidden))]
        scores: list[list[float]] = [[] for _ in range(len(hidden))]
        ended = torch.zeros(len(hidden), dtype=torch.bool)
        for number in range(max_new):
            logprobs = self.logprobs(hidden)
            chosen = pick(logprobs, temperature, top_p, top_k, source)
            taken = logprobs.gather(1, chosen[:, None].to(logprobs.device))[:, 0].cpu()
            for row in torch.nonzero(~ended)[:, 0].tolist():
                scores[row].append(float(taken[row]))
                if int(chosen[row]) != self.chat.end_id:
                    ids[row].append(int(chosen[row]))
            ended |= chosen == self.chat.end_id
            if number == max_new - 1 or (bool(ended.all()) and not self.fixed_steps):
                break
            hidden = self.advance(chosen[:, None], cache)[:, -1]
        return [Answer(i, self.chat.decode(i), s) for i, s in zip(ids, scores, strict=True)]

    def advance(self, ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Feed [S, N] ids: hidden states [S, N, W]."""
        sequences, count = ids.shape
        x = self.model.decoder.embed(ids.reshape(-1).to(self.mesh.device), self.model.math)
        return self.model.step(x, cache.places(count), cache).view(sequences, count, -1)

    def logprobs(self, hidden: Tensor) -> Tensor:
        """[K, W] -> [K, vocabulary] log-probabilities over all TP ranks' columns."""
        logits = self.model.decoder.logits(hidden)
        if self.mesh.tp_size > 1:
            parts = [torch.empty_like(logits) for _ in range(self.mesh.tp_size)]
            dist.all_gather(parts, logits.contiguous(), group=self.mesh.tp_group)
            logits = torch.cat(parts, 1)
        return logits[:, : self.chat.vocab_size].log_softmax(-1)

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]) -> list[float]:
        """Sum of log-probabilities of one continuation (ids) a prompt; pairs of equal shape run together."""
        out = [0.0] * len(prompts)
        shapes: dict[tuple[int, int], list[int]] = {}
        for index, (prompt, ids) in enumerate(zip(prompts, continuations, strict=True)):
            shapes.setdefault((len(widen(prompt.encoded, prompt.sizes, self.geometry).ids), len(ids)), []).append(index)
        with torch.no_grad():
            for _, members in sorted(shapes.items()):
                for start in range(0, len(members), GROUP):
                    part = members[start : start + GROUP]
                    ids = torch.tensor([list(continuations[i]) for i in part])
                    for index, value in zip(part, self._score_group([prompts[i] for i in part], ids), strict=True):
                        out[index] = value
        return out

    def _score_group(self, prompts: Sequence[Prompt], ids: Tensor) -> list[float]:
        last, cache = self.prefill(prompts, ids.shape[1])
        return continuation_scores(self, last, cache, ids).tolist()


def continuation_scores(
    generator: Generator, last: Tensor, cache: KeyValueCache, ids: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Log-probability sums [S] of [S, N] ids after a prefill whose last hidden states are [S, W].

    Args:
        counts: [S] ids of each sequence that count; none: all N. What comes after them does not matter.
    """
    hidden = last[:, None]
    if ids.shape[1] > 1:
        hidden = torch.cat([hidden, generator.advance(ids[:, :-1], cache)], 1)
    logprobs = generator.logprobs(hidden.reshape(-1, hidden.shape[-1]))
    taken = logprobs.gather(1, ids.reshape(-1, 1).to(logprobs.device)).view(ids.shape).cpu()
    if counts is not None:
        taken = taken.masked_fill(torch.arange(ids.shape[1]) >= counts[:, None], 0.0)
    return taken.sum(1)


def pick(logprobs: Tensor, temperature: float, top_p: float, top_k: int, source: torch.Generator | None) -> Tensor:
    """Choose one id a row, on the host: greedy, or sampled within the `top_k` likeliest and the `top_p` nucleus."""
    logprobs = logprobs.float().cpu()
    if temperature <= 0:
        return logprobs.argmax(-1)
    scaled = (logprobs / temperature).log_softmax(-1)
    ordered, order = scaled.sort(-1, descending=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k > 0:
        keep[:, top_k:] = False
    keep &= ordered.exp().cumsum(-1) - ordered.exp() < top_p
    keep[:, 0] = True
    probabilities = ordered.masked_fill(~keep, -torch.inf).softmax(-1)
    return order.gather(1, torch.multinomial(probabilities, 1, generator=source))[:, 0]


def generate_from_run(
    run: str,
    images: Sequence[str],
    prompt: str | None,
    *,
    max_new: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Answer one prompt (none: caption the picture) with a run's weights: {ids, text, logprobs}.

    Raises:
        UserError: a picture is missing or is none, or the run has no checkpoint.
    """
    from pretrain.answering import open_run, prompt_of

    with alone() as mesh:
        opened = open_run(run, mesh)
        made = Generator(opened.model, opened.chat, opened.geometry, mesh).answer(
            [prompt_of(opened, images, prompt)], max_new, temperature, top_p, top_k, seed
        )[0]
    return {"ids": made.ids, "text": made.text, "logprobs": made.logprobs}
