"""Caption retrieval: which of 100 held-out captions belongs to a picture, by the model's own likelihoods.

Score of (picture, caption) = log p(caption | picture) - log p(caption): pointwise mutual information, how much the
picture helps the caption. p(caption) is the mean of p(caption | picture) over some *training* pictures. Without that
term captions that are short or common would always win. (A blank picture in its place was tried on held-out pictures
outside the hundred: half as many hits, as the model has seen no blank picture in training.)
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.generate import Generator, Prompt, continuation_scores


def caption_scores(
    generator: Generator, prompts: Sequence[Prompt], captions: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """log p(caption | prompt) of every prompt with every caption: [P, C]. Prompts run once; their cache serves all captions."""
    out = np.zeros((len(prompts), len(captions)))
    room = max(len(ids) for ids in captions)
    with torch.no_grad():
        for group in generator.groups(prompts):
            last, cache = generator.prefill([prompts[i] for i in group], room)
            start = cache.mark()
            for number, ids in enumerate(captions):
                cache.back(start)
                tokens = torch.tensor([list(ids)]).expand(len(group), -1)
                out[group, number] = continuation_scores(generator, last, cache, tokens).double().numpy()
    return out


def marginal(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """[P, C] log p(caption | picture) -> [C] log of the mean over pictures of p(caption | picture)."""
    return np.logaddexp.reduce(scores, axis=0) - math.log(len(scores))


def retrieval_at_1(scores: NDArray[np.float64], truth: Sequence[int]) -> list[bool]:
    """Whether each picture's best caption is its own (row i belongs to caption truth[i])."""
    return [bool(row.argmax() == right) for row, right in zip(scores, truth, strict=True)]


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927).

    >>> tuple(round(x, 3) for x in wilson(10, 100))
    (0.055, 0.174)
    """
    if not count:
        return 0.0, 1.0
    share, z2 = right / count, z * z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return centre - half, centre + half
