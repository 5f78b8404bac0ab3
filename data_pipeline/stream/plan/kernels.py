"""Compiled inner loops of the planner. Integers decide wherever they can; what floats decide is IEEE arithmetic in a fixed
order, without fast math: the same plan on every machine.

Compiled once by numba and kept beside this file (or, where that cannot be written, in the user's cache).
"""

import numpy as np
from numba import njit

NONE = -1


@njit(cache=True)
def draw_sources(share, credit, units, starts, by_tokens, longest, tokens):  # type: ignore[no-untyped-def]
    """See `Mixture.draw`. `credit` and `longest` are updated in place."""
    count = len(share)
    active = 0
    for i in range(count):
        if share[i] > 0:
            active += 1
    slack = 1.0 - 1.0 / (2 * active - 2) if active > 1 else 1.0
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
                    if deadline < soonest:
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


@njit(cache=True)
def _take(i, tokens, head, after, before, stock, place, left, bins):  # type: ignore[no-untyped-def]
    """Take sample i out of the lists of its length and out of the stock.

    The stock has a part for each bin of lengths; `left` is [samples, tokens, samples of each bin ...].
    """
    size = len(stock) // BINS
    a, b = after[i], before[i]
    if b == NONE:
        head[tokens[i]] = a
    else:
        after[b] = a
    if a != NONE:
        before[a] = b
    bin_ = 2 + bins[i]
    last = stock[bins[i] * size + left[bin_] - 1]
    stock[place[i]] = last
    place[last] = place[i]
    place[i] = NONE
    left[bin_] -= 1
    left[0] -= 1
    left[1] -= tokens[i]


@njit(cache=True)
def _give(i, tokens, head, after, before, stock, place, left, bins):  # type: ignore[no-untyped-def]
    """Put sample i back."""
    size = len(stock) // BINS
    first = head[tokens[i]]
    after[i], before[i] = first, NONE
    if first != NONE:
        before[first] = i
    head[tokens[i]] = i
    bin_ = 2 + bins[i]
    place[i] = bins[i] * size + left[bin_]
    stock[place[i]] = i
    left[bin_] += 1
    left[0] += 1
    left[1] += tokens[i]


@njit(cache=True)
def _best_pair(room, goal, grain, images_left, patches_left, tokens, vision, images, head, after, left, bins):  # type: ignore[no-untyped-def]
    """The two samples (or one, and NONE) of exactly `room` tokens whose vision is nearest to `goal`; NONE, NONE if none."""
    first, second, nearest = NONE, NONE, np.int64(1) << 60
    i, tries = head[room], 0
    while i != NONE and tries < LISTED:
        if images[i] <= images_left and vision[i] <= patches_left:
            distance = (abs(vision[i] - goal) // grain << 32) - 2 * left[2 + bins[i]]
            if distance < nearest:
                first, second, nearest = i, NONE, distance
        i = after[i]
        tries += 1
    found = 0
    for shorter in range(room // 2, 0, -1):
        if found >= ENOUGH and nearest < 0:
            break
        if head[shorter] == NONE or head[room - shorter] == NONE:
            continue
        i, outer = head[shorter], 0
        while i != NONE and outer < LISTED:
            k, inner = head[room - shorter], 0
            while k != NONE and inner < LISTED:
                seen = vision[i] + vision[k]
                if k != i and images[i] + images[k] <= images_left and seen <= patches_left:
                    distance = (abs(seen - goal) // grain << 32) - left[2 + bins[i]] - left[2 + bins[k]]
                    if distance < nearest:
                        first, second, nearest = i, k, distance
                    found += 1
                k = after[k]
                inner += 1
            i = after[i]
            outer += 1
    return first, second


ENOUGH = 512
"""Pairs after which a search that has found one of the right vision ends."""
LISTED = 3
"""Samples of a length that a search looks at."""
BINS = 32
"""Parts by length, of equal size at first. The fullest opens a row, so lengths stay as varied to the last row."""
GRAINS = 12
"""Vision that differs by less than this part of a row's counts as the same: then the fuller bin decides."""
CANDIDATES = 8
"""Samples that a piece in the middle of a row is chosen from."""
THIRDS = 24
"""Samples that are tried as a third, when no two fill a row."""
SHORT = 48
"""Rows may stay short by so many tokens before the search gives up, in steps of one."""


@njit(cache=True)
def _next_random(state):  # type: ignore[no-untyped-def]
    state[0] = state[0] * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    return np.int64(state[0] >> np.uint64(33))


@njit(cache=True)
def _any(stock, left, random):  # type: ignore[no-untyped-def]
    """A sample of the stock, any with the same chance."""
    number, part, size = _next_random(random) % left[0], 0, len(stock) // BINS
    while number >= left[2 + part]:
        number -= left[2 + part]
        part += 1
    return stock[part * size + number]


@njit(cache=True)
def _from_fullest(stock, left, random):  # type: ignore[no-untyped-def]
    """A sample of the bin that has most left; of several the one of the longest."""
    fullest = BINS - 1
    for part in range(BINS - 2, -1, -1):
        if left[2 + part] > left[2 + fullest]:
            fullest = part
    return stock[fullest * (len(stock) // BINS) + _next_random(random) % left[2 + fullest]]


@njit(cache=True)
def fill_rows(tokens, vision, images, bins, seeds, rows, length, max_images, max_patches, final):  # type: ignore[no-untyped-def]
    """Rows out of samples: the longest left opens a row, pieces that keep its vision at the average follow, and the last
    two are looked up so that it is exactly full.

    Args:
        bins: [n] which of BINS equal parts of the samples, by length, each belongs to.
        seeds: samples that open rows before all others.
        final: rows until nothing is left.
    Returns:
        (samples row by row, [rows + 1] starts, samples that are left)
    """
    n = len(tokens)
    head = np.full(length + 1, NONE, np.int64)
    after, before = np.full(n, NONE, np.int64), np.full(n, NONE, np.int64)
    stock, place = np.empty(BINS * (n // BINS + 1), np.int64), np.full(n, NONE, np.int64)
    left = np.zeros(2 + BINS, np.int64)
    for i in range(n - 1, -1, -1):
        _give(i, tokens, head, after, before, stock, place, left, bins)
    seen_left = np.int64(0)
    for i in range(n):
        seen_left += vision[i]
    order = np.empty(n, np.int64)
    starts = np.zeros((n if final else rows) + 1, np.int64)
    random = np.array([0x9E3779B97F4A7C15], np.uint64)
    done = row = at = 0
    while left[0] > 0 and (final or row < rows):
        while at < len(seeds) and place[seeds[at]] == NONE:
            at += 1
        goal = seen_left * length // left[1]
        if at < len(seeds):
            i = seeds[at]
        else:
            i = _from_fullest(stock, left, random)
        room, seen, pictures = length, np.int64(0), np.int64(0)
        while i != NONE:
            _take(i, tokens, head, after, before, stock, place, left, bins)
            order[done] = i
            done += 1
            room -= tokens[i]
            seen += vision[i]
            pictures += images[i]
            i = NONE
            if left[0] == 0 or room == 0:
                break
            mean = left[1] // left[0]
            if 2 * room > 5 * mean:
                best = np.int64(1) << 60
                for c in range(CANDIDATES):
                    k = _any(stock, left, random) if c % 2 else _from_fullest(stock, left, random)
                    if tokens[k] > room or pictures + images[k] > max_images or seen + vision[k] > max_patches:
                        continue
                    off = abs((seen + vision[k]) * length - goal * (length - room + tokens[k]))
                    if off < best:
                        i, best = k, off
                if i != NONE:
                    continue
            first, second = _finish(
                room, goal - seen, goal // GRAINS + 1, max_images - pictures, max_patches - seen, tokens, vision, images, head, after, stock, left, bins, random
            )
            if first == NONE:
                break
            if second != NONE:
                _take(second, tokens, head, after, before, stock, place, left, bins)
                order[done] = second
                done += 1
                room -= tokens[second]
                seen += vision[second]
                pictures += images[second]
            i = first
        seen_left -= seen
        row += 1
        starts[row] = done
    if not final:
        for r in range(row, rows):
            starts[r + 1] = done
        row = rows
    starts = starts[: row + 1]
    _exchange(order, starts, tokens, vision, images, length, max_images, max_patches, head, after, before, stock, place, left, bins)
    return order[:done], starts, np.flatnonzero(place != NONE)


@njit(cache=True)
def _finish(room, goal, grain, images_left, patches_left, tokens, vision, images, head, after, stock, left, bins, random):  # type: ignore[no-untyped-def]
    """Samples that come next to the end of a row: one or two that fill it, one of three that do, or the nearest below."""
    first, second = _best_pair(room, goal, grain, images_left, patches_left, tokens, vision, images, head, after, left, bins)
    if first != NONE:
        return first, second
    for _ in range(THIRDS):
        k = _any(stock, left, random)
        rest = room - tokens[k]
        if rest < 1 or images[k] > images_left or vision[k] > patches_left:
            continue
        saved = head[tokens[k]]
        first, second = _best_pair(
            rest, goal - vision[k], grain, images_left - images[k], patches_left - vision[k], tokens, vision, images, head, after, left, bins
        )
        if first != NONE and first != k and second != k:
            return k, NONE
        head[tokens[k]] = saved
    for short in range(1, min(SHORT, room - 1) + 1):
        first, second = _best_pair(room - short, goal, grain, images_left, patches_left, tokens, vision, images, head, after, left, bins)
        if first != NONE:
            return first, second
    for size in range(room, 0, -1):
        i, tries = head[size], 0
        while i != NONE and tries < LISTED:
            if images[i] <= images_left and vision[i] <= patches_left:
                return i, NONE
            i = after[i]
            tries += 1
    return NONE, NONE


@njit(cache=True)
def _exchange(  # type: ignore[no-untyped-def]
    order, starts, tokens, vision, images, length, max_images, max_patches, head, after, before, stock, place, left, bins
):
    """Rows that stayed short: change one of their samples for one that is left over and longer by just that."""
    for row in range(len(starts) - 1):
        room, pictures, seen = length, np.int64(0), np.int64(0)
        for p in range(starts[row], starts[row + 1]):
            room -= tokens[order[p]]
            pictures += images[order[p]]
            seen += vision[order[p]]
        if room == 0 or starts[row] == starts[row + 1]:
            continue
        changed, gain = NONE, np.int64(0)
        other = NONE
        for p in range(starts[row], starts[row + 1]):
            old = order[p]
            for more in range(room, gain, -1):
                if tokens[old] + more > length:
                    continue
                k = head[tokens[old] + more]
                if k != NONE and pictures - images[old] + images[k] <= max_images and seen - vision[old] + vision[k] <= max_patches:
                    changed, other, gain = p, k, more
                    break
        if changed != NONE:
            old = order[changed]
            _take(other, tokens, head, after, before, stock, place, left, bins)
            order[changed] = other
            _give(old, tokens, head, after, before, stock, place, left, bins)
