"""Which source each draw comes from: Tijdeman's deadline rule, never a whole sample away from the weights.

After n draws source i has been drawn within one sample of n * w_i (Tijdeman 1980, "The chairman assignment problem");
largest-deficit greedy can drift further (measured 1.093 against 0.978).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw_sources(weights: Sequence[float], drawn: Sequence[int], count: int) -> NDArray[np.int32]:
    """The next `count` draws after `drawn` draws of each source.

    A source is eligible for draw t when that would not put it ahead by a whole sample; among the eligible the one whose
    deadline, the last moment that still keeps its bound, comes first.
    """
    share = np.asarray(weights, float) / float(np.sum(weights))
    have = np.asarray(drawn, np.int64).copy()
    out = np.empty(count, np.int32)
    if len(share) == 1:
        return np.zeros(count, np.int32)
    slack = 1.0 - 1.0 / (2 * len(share) - 2)
    start = int(have.sum())
    for n in range(count):
        wanted = share * (start + n + 1)
        deadline = np.where(wanted - have > 1.0 - slack - 1e-12, (have + slack) / share, np.inf)
        choice = int(np.argmin(deadline))
        out[n] = choice
        have[choice] += 1
    return out
