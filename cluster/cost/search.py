"""Settings that fit a site, the fastest first; and for one that does not fit, the nearest change that does."""

from collections.abc import Iterator
from dataclasses import replace

from cluster.cost.decoder import padded_vocabulary
from cluster.cost.estimate import Estimate, Estimator, Setting

MOST_ROWS_PER_RANK = 32


def tensor_sizes(estimator: Estimator, ranks: int) -> list[int]:
    """TP degrees that divide the ranks, the decoder's heads and the vocabulary, within a node."""
    decoder, node = estimator.recipe.model.decoder, estimator.devices_per_node(ranks)
    vocabulary = padded_vocabulary(decoder, estimator.vocabulary)
    return [
        n
        for n in range(1, min(node, ranks) + 1)
        if node % n == 0
        and ranks % n == 0
        and decoder.heads % n == 0
        and vocabulary % n == 0
        and decoder.mlp_width % n == 0
    ]


def settings(estimator: Estimator, ranks: int) -> Iterator[Setting]:
    """Every setting of `ranks` ranks under which the recipe's steps stay the same."""
    rows = estimator.recipe.data.packing.rows_per_step
    bf16 = estimator.recipe.parallel.precision == "bf16"
    for tp in tensor_sizes(estimator, ranks):
        each = 1
        while each <= MOST_ROWS_PER_RANK and (each == 1 or each * (ranks // tp) <= rows):
            for zero in (1, 2, 3) if bf16 else (0, 1, 2, 3):
                for recompute in (False, True):
                    yield Setting(ranks, tp, zero, each, recompute)
            each *= 2


def search(estimator: Estimator, ranks: int) -> list[Estimate]:
    """All that fit, by tokens per second; what the trainer cannot do yet (recomputation) only where it gains."""
    found = [one for setting in settings(estimator, ranks) if (one := estimator.run(setting)).fits]
    found.sort(key=lambda one: (-round(one.tokens_per_s, 1), one.setting.recompute, one.setting.tp, one.used))
    return found


def nearest_change(estimator: Estimator, setting: Setting) -> Estimate | None:
    """The single change (else two) after which it fits, with the most tokens per second; None where nothing does.

    Halving the row is tried last: it changes what is trained.
    """
    for candidates in (
        list(changes(estimator, setting)),
        [twice for once in changes(estimator, setting) for twice in changes(estimator, once)],
        [
            replace(setting, shorter=setting.shorter / 2),
            *(replace(s, shorter=0.5) for s in changes(estimator, setting)),
        ],
    ):
        fits = [one for candidate in dict.fromkeys(candidates) if (one := estimator.run(candidate)).fits]
        real = [one for one in fits if not one.setting.recompute] or fits
        if real:
            return max(real, key=lambda one: one.tokens_per_s / one.setting.ranks)
    return None


def changes(estimator: Estimator, setting: Setting) -> Iterator[Setting]:
    """Settings one step away that need less memory on a rank."""
    if setting.rows_per_rank > 1:
        yield replace(setting, rows_per_rank=setting.rows_per_rank // 2)
    for zero in range(setting.zero + 1, 4):
        yield replace(setting, zero=zero)
    larger = [n for n in tensor_sizes(estimator, setting.ranks) if n > setting.tp]
    if larger:
        yield replace(setting, tp=larger[0])
    if not setting.recompute:
        yield replace(setting, recompute=True)
    hardware = estimator.hardware
    if hardware.kind == "gpu" and setting.ranks * 2 <= hardware.nodes * hardware.devices_per_node:
        yield replace(setting, ranks=setting.ranks * 2)


def said(old: Setting, new: Setting, length: int) -> str:
    """A change as settings of the command."""
    parts = []
    for name, key in (("tp", "parallel.tp"), ("zero", "parallel.zero"), ("rows_per_rank", "parallel.rows_per_rank")):
        if getattr(old, name) != getattr(new, name):
            parts.append(f"--set {key}={getattr(new, name)}")
    if new.ranks != old.ranks:
        parts.append(f"--ranks {new.ranks}")
    if new.shorter != old.shorter:
        parts.append(f"--set data.packing.length={int(length * new.shorter)}")
    if new.recompute and not old.recompute:
        parts.append("activation checkpointing (no key of a recipe yet)")
    return " ".join(parts)
