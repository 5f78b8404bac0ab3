"""Joining neighbouring records into samples of several pictures, each picture on a canvas of its own."""

import random
from collections import deque
from dataclasses import replace
from typing import Any

from configs.ingest import ComposeConfig
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.sample import IMAGE_MARK


def compose(records: list[Record], config: ComposeConfig) -> list[Record]:
    """Records of one picture each -> records of 1, 1, 2, 3, 4, ... pictures (the cycle `config.pictures`).

    The order is a seeded permutation; a picture never stands twice in one record (a repeat waits for the next).
    Every input record is in exactly one output record; those that are broken, that carry several pictures or none,
    or an answer that was not chosen, pass unchanged.
    """
    rng = random.Random(config.seed)
    single = [record for record in records if _joins(record)]
    out = [record for record in records if not _joins(record)]
    rng.shuffle(single)
    waiting = deque(
        replace(record, images=(replace(record.images[0], canvas=_canvas(record, config)),)) for record in single
    )
    turn = 0
    while waiting:
        wanted, group = config.pictures[turn % len(config.pictures)], [waiting.popleft()]
        passed: list[Record] = []
        turn += 1
        while waiting and len(group) < wanted:
            record = waiting.popleft()
            repeated = any(_place(record.images[0]) == _place(other.images[0]) for other in group)
            mixed = (record.messages is None) != (group[0].messages is None)
            (passed if repeated or mixed else group).append(record)
        waiting.extendleft(reversed(passed))
        out.append(_join(group))
    return out


def _joins(record: Record) -> bool:
    return len(record.images) == 1 and not record.problem and record.rejected is None


def _canvas(record: Record, config: ComposeConfig) -> tuple[int, int]:
    """A canvas that is a function of the picture: the same picture is stored alike wherever it occurs."""
    path, *place = _place(record.images[0])
    within = ":".join(str(number) for number in place)
    return random.Random(f"{config.seed}:{path.rsplit('/', 1)[-1]}:{within}").choice(config.canvases)


def _place(ref: ImageRef) -> tuple[Any, ...]:
    """What tells two pictures apart: the file, and the row or the member in it."""
    return (ref.path, ref.row) if ref.offset <= 0 else (ref.path, ref.row, ref.offset)


def _join(group: list[Record]) -> Record:
    if len(group) == 1:
        return group[0]
    images = tuple(image for record in group for image in record.images)
    provenance: dict[str, Any] = {}
    for record in group:
        for name, value in record.provenance.items():
            # Lists join, single values collect: every picture keeps its own entry at its own place.
            provenance.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    # A filter sees what all of them say alike.
    columns = dict(group[0].columns)
    for record in group[1:]:
        columns = {name: value if record.columns.get(name) == value else None for name, value in columns.items()}
    joined = Record(images, provenance=provenance, columns=columns)
    if group[0].messages is not None:
        return replace(joined, messages=tuple(m for record in group for m in record.messages or ()))
    return replace(joined, text="".join(IMAGE_MARK + (record.text or "") for record in group))
