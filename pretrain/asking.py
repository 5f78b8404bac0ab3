"""Prompts answered freely and scored against given answers, each prompt run through the model once."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from pretrain.generate import Generator, Prompt, continuation_scores


def ask(
    generator: Generator, prompts: Sequence[Prompt], wanted: Sequence[Sequence[Sequence[int]]], max_new: int
) -> list[list[Any]]:
    """[what the model says, [loss per token of each wanted answer]] of every prompt.

    Args:
        wanted: answers (ids) to score after each prompt.
        max_new: most tokens of what the model says.
    """
    out: list[list[Any]] = [[] for _ in prompts]
    quiet = not generator.mesh.is_first or len(prompts) < 500
    with (
        torch.no_grad(),
        tqdm(total=len(prompts), desc="questions", disable=quiet, file=sys.stderr, mininterval=2) as bar,
    ):
        for group in generator.groups(prompts):
            asked = [wanted[place] for place in group]
            room = max([max_new, *(len(ids) for answers in asked for ids in answers)])
            last, cache = generator.prefill([prompts[place] for place in group], room)
            start = cache.mark()
            said = generator.grow(last, cache, max_new)
            losses: list[list[float]] = [[] for _ in group]
            for number in range(max(len(answers) for answers in asked)):
                rows = [list(answers[number]) if number < len(answers) else [0] for answers in asked]
                cache.back(start)
                counts = torch.tensor([len(ids) for ids in rows])
                padded = torch.tensor([ids + [0] * (int(counts.max()) - len(ids)) for ids in rows])
                scores = continuation_scores(generator, last, cache, padded, counts)
                for row, answers in enumerate(asked):
                    if number < len(answers):
                        losses[row].append(-float(scores[row]) / len(rows[row]))
            for row, place in enumerate(group):
                out[place] = [said[row].text.strip(), losses[row]]
            bar.update(len(group))
    return out
