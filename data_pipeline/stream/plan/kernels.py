"""Compiled inner loops of the planner. Integers decide wherever they can; what floats decide is IEEE arithmetic in a fixed
order, without fast math: the same plan on every machine.

Compiled once by numba and kept beside this file (or, where that cannot be written, in the user's cache).
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

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


class Samples(NamedTuple):
    """Columns of what is packed [n]; `bins`: which of BINS equal parts by length each belongs to."""

    tokens: NDArray[np.int64]
    vision: NDArray[np.int64]
    images: NDArray[np.int64]
    bins: NDArray[np.int64]


class Limits(NamedTuple):
    """Of a row."""

    length: int
    images: int
    vision: int


class Stock(NamedTuple):
    """What is not in a row yet: lists by length (head [length + 1], after [n], before [n]); and slots, a part of them for
    each bin, with the place of each sample in them. `left` is [samples, tokens, vision, samples of each bin ...]."""

    head: NDArray[np.int64]
    after: NDArray[np.int64]
    before: NDArray[np.int64]
    slots: NDArray[np.int64]
    place: NDArray[np.int64]
    left: NDArray[np.int64]
    random: NDArray[np.uint64]


BINS = 32
"""Parts by length, of equal size at first. The fullest opens a row, so lengths stay as varied to the last row."""
SUMS = 3
CANDIDATES = 4
"""Samples that a piece in the middle of a row is chosen from."""
GRAINS = 12
"""Vision that differs by less than this part of a row's counts as the same: then the fuller bin decides."""
ENOUGH = 512
"""Pairs after which a search that has found one of the right vision ends."""
LISTED = 3
"""Samples of a length that a search looks at."""
THIRDS = 12
"""Samples that are tried as a third, when no two fill a row."""
SHORT = 16
"""By so many tokens a row may stay short where nothing fills it exactly, before just the longest that fits is taken."""
ATTEMPTS = 4
"""A row that stays short by more than 1/64 is opened anew with another sample so often; the best one counts."""


@njit(cache=True)
def _take(i, samples, stock):  # type: ignore[no-untyped-def]
    """Take sample i out of the stock."""
    head, after, before, slots, place, left = stock.head, stock.after, stock.before, stock.slots, stock.place, stock.left
    a, b = after[i], before[i]
    if b == NONE:
        head[samples.tokens[i]] = a
    else:
        after[b] = a
    if a != NONE:
        before[a] = b
    part = samples.bins[i]
    last = slots[part * (len(slots) // BINS) + left[SUMS + part] - 1]
    slots[place[i]], place[last] = last, place[i]
    place[i] = NONE
    left[SUMS + part] -= 1
    left[0] -= 1
    left[1] -= samples.tokens[i]
    left[2] -= samples.vision[i]


@njit(cache=True)
def _give(i, samples, stock):  # type: ignore[no-untyped-def]
    """Put sample i into the stock."""
    head, left, part = stock.head, stock.left, samples.bins[i]
    first = head[samples.tokens[i]]
    stock.after[i], stock.before[i] = first, NONE
    if first != NONE:
        stock.before[first] = i
    head[samples.tokens[i]] = i
    stock.place[i] = part * (len(stock.slots) // BINS) + left[SUMS + part]
    stock.slots[stock.place[i]] = i
    left[SUMS + part] += 1
    left[0] += 1
    left[1] += samples.tokens[i]
    left[2] += samples.vision[i]


@njit(cache=True)
def _number(stock):  # type: ignore[no-untyped-def]
    """The next number of a linear congruential generator."""
    stock.random[0] = stock.random[0] * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    return np.int64(stock.random[0] >> np.uint64(33))


@njit(cache=True)
def _any(stock):  # type: ignore[no-untyped-def]
    """A sample of the stock, any with the same chance."""
    number, part = _number(stock) % stock.left[0], 0
    while number >= stock.left[SUMS + part]:
        number -= stock.left[SUMS + part]
        part += 1
    return stock.slots[part * (len(stock.slots) // BINS) + number]


@njit(cache=True)
def _from_fullest(stock):  # type: ignore[no-untyped-def]
    """A sample of the bin that has most left; of several such bins the one of the longest."""
    fullest = BINS - 1
    for part in range(BINS - 2, -1, -1):
        if stock.left[SUMS + part] > stock.left[SUMS + fullest]:
            fullest = part
    return stock.slots[fullest * (len(stock.slots) // BINS) + _number(stock) % stock.left[SUMS + fullest]]


@njit(cache=True)
def _pair(room, goal, grain, limits, samples, stock):  # type: ignore[no-untyped-def]
    """Two samples (or one, and NONE) of exactly `room` tokens: of nearest vision to `goal`, then out of the fullest bins.

    `limits` is what the row still may take.
    """
    first, second, nearest = NONE, NONE, np.int64(1) << 60
    if room >= len(stock.head):
        return first, second
    head, after, left = stock.head, stock.after, stock.left
    vision, images, bins = samples.vision, samples.images, samples.bins
    most_images, most_vision = limits.images, limits.vision
    i, tries = head[room], 0
    while i != NONE and tries < LISTED:
        if images[i] <= most_images and vision[i] <= most_vision:
            distance = (abs(vision[i] - goal) // grain << 32) - 2 * left[SUMS + bins[i]]
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
                if k != i and images[i] + images[k] <= most_images and seen <= most_vision:
                    distance = (abs(seen - goal) // grain << 32) - left[SUMS + bins[i]] - left[SUMS + bins[k]]
                    if distance < nearest:
                        first, second, nearest = i, k, distance
                    found += 1
                k = after[k]
                inner += 1
            i = after[i]
            outer += 1
    return first, second


@njit(cache=True)
def _finish(room, goal, grain, limits, samples, stock):  # type: ignore[no-untyped-def]
    """What comes next near the end of a row: one or two that fill it, one of three that do, or the longest that fits."""
    first, second = _pair(room, goal, grain, limits, samples, stock)
    if first != NONE:
        return first, second
    for _ in range(THIRDS):
        k = _any(stock)
        rest = room - samples.tokens[k]
        if rest < 1 or samples.images[k] > limits.images or samples.vision[k] > limits.vision:
            continue
        less = Limits(rest, limits.images - samples.images[k], limits.vision - samples.vision[k])
        first, second = _pair(rest, goal - samples.vision[k], grain, less, samples, stock)
        if first != NONE and first != k and second != k:
            return k, NONE
    for short in range(1, min(SHORT, room - 1) + 1):
        first, second = _pair(room - short, goal, grain, limits, samples, stock)
        if first != NONE:
            return first, second
    for size in range(min(room, len(stock.head) - 1), 0, -1):
        i, tries = stock.head[size], 0
        while i != NONE and tries < LISTED:
            if samples.images[i] <= limits.images and samples.vision[i] <= limits.vision:
                return i, NONE
            i = stock.after[i]
            tries += 1
    return NONE, NONE


@njit(cache=True)
def _middle(room, seen, goal, limits, length, samples, stock):  # type: ignore[no-untyped-def]
    """A piece that leaves the row's vision in step with its length; NONE if none of those tried fits."""
    chosen, nearest = NONE, np.int64(1) << 60
    for c in range(CANDIDATES):
        k = _any(stock) if c % 2 else _from_fullest(stock)
        if samples.tokens[k] > room or samples.images[k] > limits.images or samples.vision[k] > limits.vision:
            continue
        off = abs((seen + samples.vision[k]) * length - goal * (length - room + samples.tokens[k]))
        if off < nearest:
            chosen, nearest = k, off
    return chosen


@njit(cache=True)
def _row(opener, late, out, limits, samples, stock):  # type: ignore[no-untyped-def]
    """One row, opened by sample `opener`, then with all of `late` that fits. Returns (samples written to `out`, tokens free)."""
    goal = stock.left[2] * limits.length // stock.left[1]
    grain = goal // GRAINS + 1
    room, seen, pictures, count, at = limits.length, np.int64(0), np.int64(0), 0, 0
    first, second = opener, NONE
    while first != NONE:
        for i in (first, second):
            if i != NONE:
                _take(i, samples, stock)
                out[count] = i
                count += 1
                room -= samples.tokens[i]
                seen += samples.vision[i]
                pictures += samples.images[i]
        first, second = NONE, NONE
        if stock.left[0] == 0 or room == 0:
            break
        free = Limits(room, limits.images - pictures, limits.vision - seen)
        while at < len(late) and first == NONE:
            i = late[at]
            fits = stock.place[i] != NONE and samples.tokens[i] <= room
            if fits and samples.images[i] <= free.images and samples.vision[i] <= free.vision:
                first = i
            at += 1
        if first == NONE and 2 * room * stock.left[0] > 5 * stock.left[1]:
            first = _middle(room, seen, goal, free, limits.length, samples, stock)
        if first == NONE:
            first, second = _finish(room, goal - seen, grain, free, samples, stock)
    return count, room


@njit(cache=True)
def fill_rows(samples, late, longest_first, rows, limits, final):  # type: ignore[no-untyped-def]
    """Rows out of samples.

    Args:
        late: samples that are placed before all others, the longest first.
        longest_first: [n] samples in the order in which they open rows; empty: the fullest bin does.
        final: rows until nothing is left; `rows` is ignored.

    Returns:
        (samples row by row, [rows + 1] starts, samples that are left)
    """
    n, length = len(samples.tokens), limits.length
    none = np.full(n, NONE, np.int64)
    slots = np.empty(BINS * (n // BINS + 1), np.int64)
    stock = Stock(
        np.full(length + 1, NONE, np.int64),
        none.copy(),
        none.copy(),
        slots,
        none.copy(),
        np.zeros(SUMS + BINS, np.int64),
        np.array([0x9E3779B97F4A7C15], np.uint64),
    )
    for i in range(n - 1, -1, -1):
        _give(i, samples, stock)
    order, starts = np.empty(n, np.int64), np.zeros((n if final else rows) + 1, np.int64)
    best, tried = np.empty(n, np.int64), np.empty(n, np.int64)
    done = row = at = opened = 0
    while stock.left[0] > 0 and (final or row < rows):
        while at < len(late) and stock.place[late[at]] == NONE:
            at += 1
        least, kept = length + 1, 0
        for attempt in range(ATTEMPTS):
            while opened < len(longest_first) and stock.place[longest_first[opened]] == NONE:
                opened += 1
            if at < len(late):
                opener = late[at]
            elif opened < len(longest_first) and attempt == 0:
                opener = longest_first[opened]
            else:
                opener = _any(stock) if attempt else _from_fullest(stock)
            count, room = _row(opener, late[at:], tried, limits, samples, stock)
            if room < least:
                best[:count] = tried[:count]
                least, kept = room, count
                if room * 64 <= length or stock.left[0] == 0:
                    break
            for p in range(count - 1, -1, -1):
                _give(tried[p], samples, stock)
        for p in range(kept):
            if stock.place[best[p]] != NONE:
                _take(best[p], samples, stock)
        order[done : done + kept] = best[:kept]
        done += kept
        row += 1
        starts[row] = done
    if not final:
        starts[row + 1 :] = done
        row = rows
    return order[:done], starts[: row + 1], np.flatnonzero(stock.place != NONE)


@njit(cache=True)
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
