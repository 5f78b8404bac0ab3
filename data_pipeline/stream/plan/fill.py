"""The compiled inner loop of packing: rows out of samples. Integers decide; the generator is a fixed one.

Lists by length answer "which samples have exactly so many tokens" at once. numba compiles slices and strings slowly, so
arrays come from the caller and are copied in plain loops: 3.4 s in place of 6.2 when nothing is cached yet.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.stream.compiled import compiled

NONE = -1


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
    each bin, with the place of each sample in them. `left`: samples, tokens, vision, strain, samples of each bin."""

    head: NDArray[np.int64]
    after: NDArray[np.int64]
    before: NDArray[np.int64]
    slots: NDArray[np.int64]
    place: NDArray[np.int64]
    left: NDArray[np.int64]
    random: NDArray[np.uint64]


BINS = 64
"""Parts by length, of equal size at first. The fullest opens a row, so lengths stay as varied to the last row."""
SUMS, STRAIN = 4, 3
CANDIDATES = 4
"""Samples that a piece in the middle of a row is chosen from."""
GRAINS = 12
"""Vision that differs by less than this part of a row's counts as the same: then the fuller bin decides."""
ENOUGH = 512
"""Pairs after which a search that has found one of the right vision ends."""
MOST = 4096
"""Pairs after which any search ends."""
LISTED = 3
"""Samples of a length that the search for the longest that fits looks at."""
THIRDS = 12
"""Samples that are tried as a third, when no two fill a row."""
SHORT = 16
"""By so many tokens a row may stay short where nothing fills it exactly, before just the longest that fits is taken."""
PATIENCE = 32
"""Rows in turn that stay short by more than 1/64 before the searches get short: such samples do not fill rows."""
ATTEMPTS = 4
"""A row that stays short by more than 1/64 is opened anew with another sample so often; the best one counts."""


@compiled
def _take(i, samples, stock):  # type: ignore[no-untyped-def]
    """Take sample i out of the stock."""
    head, after, before, slots, place, left = (
        stock.head,
        stock.after,
        stock.before,
        stock.slots,
        stock.place,
        stock.left,
    )
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


@compiled
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


@compiled
def _number(stock):  # type: ignore[no-untyped-def]
    """The next number of a linear congruential generator."""
    stock.random[0] = stock.random[0] * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    return np.int64(stock.random[0] >> np.uint64(33))


@compiled
def _any(stock):  # type: ignore[no-untyped-def]
    """A sample of the stock, any with the same chance."""
    number, part = _number(stock) % stock.left[0], 0
    while number >= stock.left[SUMS + part]:
        number -= stock.left[SUMS + part]
        part += 1
    return stock.slots[part * (len(stock.slots) // BINS) + number]


@compiled
def _from_fullest(stock):  # type: ignore[no-untyped-def]
    """A sample of the bin that has most left; of several such bins the one of the longest."""
    fullest = BINS - 1
    for part in range(BINS - 2, -1, -1):
        if stock.left[SUMS + part] > stock.left[SUMS + fullest]:
            fullest = part
    return stock.slots[fullest * (len(stock.slots) // BINS) + _number(stock) % stock.left[SUMS + fullest]]


@compiled
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
    i = head[room]
    if i != NONE and images[i] <= most_images and vision[i] <= most_vision:
        first, nearest = i, (abs(vision[i] - goal) // grain << 32) - 2 * left[SUMS + bins[i]]
    pairs = 0
    for shorter in range(room // 2, 0, -1):
        if pairs >= ENOUGH and (nearest < 0 or pairs >= MOST):
            break
        i, k = head[shorter], head[room - shorter]
        if i == k and i != NONE:
            k = after[i]
        if i == NONE or k == NONE:
            continue
        pairs += 1
        seen = vision[i] + vision[k]
        if images[i] + images[k] <= most_images and seen <= most_vision:
            distance = (abs(seen - goal) // grain << 32) - left[SUMS + bins[i]] - left[SUMS + bins[k]]
            if distance < nearest:
                first, second, nearest = i, k, distance
    return first, second


@compiled
def _finish(room, goal, grain, limits, samples, stock):  # type: ignore[no-untyped-def]
    """What comes next near the end of a row: one or two that fill it, one of three that do, or the longest that fits."""
    tired = stock.left[STRAIN] >= PATIENCE
    thirds = 1 if tired else THIRDS
    for search in range(1 + thirds + min(1 if tired else SHORT, room - 1)):
        k, rest, images, vision = NONE, room, limits.images, limits.vision
        if search > thirds:
            rest -= search - thirds
        elif search > 0:
            k = _any(stock)
            rest, images, vision = rest - samples.tokens[k], images - samples.images[k], vision - samples.vision[k]
            if rest < 1 or images < 0 or vision < 0:
                continue
        free = Limits(rest, images, vision)
        first, second = _pair(rest, goal - (limits.vision - vision), grain, free, samples, stock)
        if first != NONE and k == NONE:
            return first, second
        if first != NONE and first != k and second != k:
            return k, NONE
    for size in range(min(room, len(stock.head) - 1), 0, -1):
        i, tries = stock.head[size], 0
        while i != NONE and tries < LISTED:
            if samples.images[i] <= limits.images and samples.vision[i] <= limits.vision:
                return i, NONE
            i = stock.after[i]
            tries += 1
    return NONE, NONE


@compiled
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


@compiled
def _row(opener, late, at, out, limits, samples, stock):  # type: ignore[no-untyped-def]
    """One row: `opener`, what fits of `late` from number `at` on, and more. Returns (samples in `out`, tokens free)."""
    goal = stock.left[2] * limits.length // stock.left[1]
    grain = goal // GRAINS + 1
    room, seen, pictures, count = limits.length, np.int64(0), np.int64(0), 0
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


@compiled
def fill_rows(samples, stock, late, longest_first, order, starts, tried, best, limits):  # type: ignore[no-untyped-def]
    """Rows out of samples, until there are no more of either. Returns (rows made, samples placed).

    Args:
        stock: an empty one; what is left of the samples stays in it.
        late: samples that are placed before all others, the longest first.
        longest_first: [n] samples in the order in which they open rows; empty: the fullest bin does.
        order, starts: [n] samples row by row and [rows + 1] where each row begins: written.
        tried, best: [n] room to work in.
    """
    length = limits.length
    for i in range(len(samples.tokens) - 1, -1, -1):
        _give(i, samples, stock)
    done = row = at = opened = 0
    while stock.left[0] > 0 and row < len(starts) - 1:
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
            count, room = _row(opener, late, at, tried, limits, samples, stock)
            tired = stock.left[STRAIN] >= PATIENCE
            if room < least:
                for p in range(count):
                    best[p] = tried[p]
                least, kept = room, count
                if room * 64 <= length or stock.left[0] == 0 or tired:
                    break
            for p in range(count - 1, -1, -1):
                _give(tried[p], samples, stock)
        for p in range(kept):
            if stock.place[best[p]] != NONE:
                _take(best[p], samples, stock)
            order[done + p] = best[p]
        stock.left[STRAIN] = min(PATIENCE + 8, max(0, stock.left[STRAIN] + (1 if least * 64 > length else -1)))
        done += kept
        row += 1
        starts[row] = done
    return row, done
