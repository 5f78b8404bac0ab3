"""Segments and pictures as loads: how the model groups attention calls (pretrain/model/attention.py), views and windows."""

from collections.abc import Sequence
from typing import Any

from cluster.cost.load import Load, Stretch
from configs.encoders import Cnn, NativeViT, ViT
from configs.model import ModelConfig

BUCKET_WASTE, SHORT = 1.3, 512
"""Segments of like length share an attention call, up to this ratio; from this mean length on each has its own."""


def stretch_of(
    lengths: Sequence[int], positions: float, causal: bool, prefixes: Sequence[int] | None = None
) -> Stretch:
    """The stretch of segments of these lengths among `positions` positions, grouped into calls as the model does.

    Args:
        prefixes: how much of each segment sees itself both ways (prefix-LM).
    """
    if prefixes is not None and any(prefixes):
        return _prefixed([(int(n), int(p)) for n, p in zip(lengths, prefixes, strict=True) if n > 0], positions)
    ordered = sorted(int(n) for n in lengths if n > 0)
    real = sum(ordered)
    useful = sum(n * (n + 1) / 2 for n in ordered) if causal else float(sum(n * n for n in ordered))
    padded = not ordered or real / len(ordered) < SHORT
    groups = _groups(ordered, causal) if padded else [[n] for n in ordered]
    gathered = sum(group[-1] * len(group) for group in groups)
    longest = [(group[-1], len(group)) for group in groups]
    pairs = sum((m * (m + 1) / 2 if causal else m * m) * count for m, count in longest)
    return Stretch(positions, real, gathered, pairs, useful, len(groups), gathered, padded=padded)


def _groups(ordered: list[int], causal: bool) -> list[list[int]]:
    """Segments that share a call: within a ratio where a causal mask hides padding, else of one length."""
    groups: list[list[int]] = []
    for length in ordered:
        if groups:
            first = groups[-1][0]
            if length <= max(first * BUCKET_WASTE, 8) if causal else length == first:
                groups[-1].append(length)
                continue
        groups.append([length])
    return groups


def _prefixed(segments: Sequence[tuple[int, int]], positions: float) -> Stretch:
    """Each segment in two calls: its prefix on itself, the rest on all of it under a mask."""
    real = sum(length for length, _ in segments)
    calls = sum((prefix > 0) + (prefix < length) for length, prefix in segments)
    pairs = useful = masks = keys = 0.0
    for length, prefix in segments:
        rest = length - prefix
        pairs += prefix**2 + (rest * length if prefix else rest * (rest + 1) / 2)
        useful += prefix**2 + rest * prefix + rest * (rest + 1) / 2
        masks += rest * length if prefix else 0
        keys += prefix + (length if rest else 0)
    return Stretch(positions, real, real, pairs, useful, calls, keys, masks, padded=False)


# ---- pictures ------------------------------------------------------------------------------------------------


def seen(model: ModelConfig, grids: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Fields of a load by rows and columns of (merged) cells of each view; without views those of the model's dummy.

    Returns:
        patches, windows, cells, outputs, views, resized. A CNN has cells alone, and none in a dummy.
    """
    encoder, merge = model.encoder, model.merge
    if isinstance(encoder, Cnn):
        cells = sum(rows * columns for rows, columns in grids)
        return {
            "cells": cells * merge**2,
            "outputs": len(grids) if model.pooled else cells,
            "views": len(grids),
        }
    extra = int(isinstance(encoder, ViT) and encoder.class_token != "none")
    shapes = [(rows * merge, columns * merge) for rows, columns in grids]
    if not shapes:  # a dummy: one merged cell, all of whose patches stand at one place
        return {
            "patches": stretch_of([merge**2 + extra], merge**2 + extra, causal=False),
            "windows": stretch_of([merge**2], merge**2, causal=False),
            "cells": merge**2,
            "outputs": 1 + model.encoder_extra,
            "views": 1,
        }
    sizes = [round(rows * columns) for rows, columns in shapes]
    cells, count = sum(sizes), len(sizes)
    made: dict[str, Any] = {
        "patches": stretch_of([size + extra for size in sizes], cells + count * extra, causal=False),
        "cells": cells,
        "outputs": cells / merge**2 + model.encoder_extra * count,
        "views": count,
    }
    if isinstance(encoder, NativeViT) and encoder.window is not None:
        made["windows"] = stretch_of([n for shape in shapes for n in _windows(shape, encoder.window)], cells, False)
    if isinstance(encoder, ViT):
        made["resized"] = any(shape not in ((encoder.side, encoder.side), (1, 1)) for shape in shapes)
    return made


def _windows(shape: tuple[float, float], side: int) -> list[int]:
    """Patches of each window of a view; those at its end are smaller."""
    rows, columns = ([min(side, round(n) - at) for at in range(0, round(n), side)] for n in shape)
    return [a * b for a in rows for b in columns]


def grid_of_count(cells: float) -> tuple[float, float]:
    """A grid of about so many cells where its shape is not known: the nearest to a square."""
    rows = max(1, round(cells**0.5))
    return rows, cells / rows


def load_from(
    model: ModelConfig,
    text: Stretch,
    grids: Sequence[tuple[float, float]],
    visual: float,
    labels: float,
    **more: Any,
) -> Load:
    """A load of text and views; `more`: its other fields."""
    known: dict[str, Any] = {"ordered": model.resolution.type == "anyres", **seen(model, grids), **more}
    if model.decoder.expert and "inner" not in known:
        known["inner"] = max(0.0, visual - len(grids))
    return Load(text, visual=visual, labels=labels, **known)
