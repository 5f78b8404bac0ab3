"""Compiled inner loops of the mixture and of the balance. Integers decide wherever they can; what floats decide is IEEE
arithmetic in a fixed order, without fast math: the same plan on every machine.

numba sees a change of the file that a function stands in, not of others: a compiled function never calls one of another file.
"""

import numpy as np

from data_pipeline.stream.compiled import compiled

NONE = -1


@compiled
def draw_sources(share, following, credit, units, starts, by_tokens, longest, tokens):  # type: ignore[no-untyped-def]
    """See `Mixture.draw`. `credit` and `longest` are updated in place.

    Args:
        share, following: of the sources now, and from when `tokens` tokens are drawn.
    """
    count = len(share)
    active = 0
    for i in range(count):
        if share[i] > 0:
            active += 1
    slack = 1.0 - 1.0 / (2 * active - 2) if active > 1 else 1.0
    mean = 0.0  # of what will be drawn, in the unit of `tokens`, which says when the shares change
    for i in range(count):
        if share[i] > 0 and starts[i + 1] > starts[i]:
            total = 0
            for k in range(starts[i], starts[i + 1]):
                total += units[k]
            mean += share[i] * total / (starts[i + 1] - starts[i])
    cursor = starts[:-1].copy()
    out = np.empty(len(units), np.int32)
    drawn = 0
    while tokens > 0:
        for i in range(count):
            if share[i] > 0:
                if cursor[i] == starts[i + 1]:
                    return out[:drawn]
                if by_tokens and units[cursor[i]] > longest[0]:
                    longest[0] = units[cursor[i]]
        room = slack * (longest[0] if by_tokens else 1)
        chosen, soonest = NONE, np.inf
        for i in range(count):
            if share[i] > 0:
                size = units[cursor[i]] if by_tokens else 1
                wanted = credit[i] + share[i] * size
                # Drawing it must not put it ahead by more than the bound; then the one whose last moment comes first.
                if wanted - size > -room - 1e-9:
                    deadline = (room - wanted) / share[i]
                    ahead = tokens / mean
                    if deadline > ahead and following[i] != share[i] and not by_tokens:
                        late = room - wanted - share[i] * ahead
                        deadline = ahead + late / following[i] if following[i] > 0 else np.inf
                    if chosen == NONE or deadline < soonest:
                        chosen, soonest = i, deadline
        if chosen == NONE:  # only just after weights changed
            for i in range(count):
                if share[i] > 0 and (chosen == NONE or credit[i] > credit[chosen]):
                    chosen = i
        length = units[cursor[chosen]]
        size = length if by_tokens else 1
        for i in range(count):
            credit[i] += share[i] * size
        credit[chosen] -= size
        cursor[chosen] += 1
        out[drawn] = chosen
        drawn += 1
        tokens -= length
    return out[:drawn]


@compiled
def even_out(dealt, features, tries):  # type: ignore[no-untyped-def]
    """Exchange blocks between steps while that brings the steps' sums nearer to zero. Returns `dealt` [steps, per_step].

    Args:
        features: [blocks, F], each column around zero.
    """
    steps, per_step = dealt.shape
    width = features.shape[1]
    sums = np.zeros((steps, width), np.int64)
    for step in range(steps):
        for block in dealt[step]:
            sums[step] += features[block]
    state = np.uint64(0x2545F4914F6CDD1D)
    for _ in range(tries):
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        number = np.int64(state >> np.uint64(20))
        one, other = number % steps, number // steps % steps
        if one == other:
            continue
        number //= steps * steps
        i, k = number % per_step, number // per_step % per_step
        a, b = dealt[one, i], dealt[other, k]
        change = np.int64(0)
        for f in range(width):
            more = features[b, f] - features[a, f]
            # (s + d)^2 + (t - d)^2 - s^2 - t^2 = 2 d (s - t + d)
            change += more * (sums[one, f] - sums[other, f] + more)
        if change < 0:
            for f in range(width):
                more = features[b, f] - features[a, f]
                sums[one, f] += more
                sums[other, f] -= more
            dealt[one, i], dealt[other, k] = b, a
    return dealt
