"""AdamW's parameter groups and the learning rate over steps."""

import math
from typing import Any

import torch

from configs.training import OptimConfig
from pretrain.stages import FreezeRow


def rate_scale(step: int, steps: int, optim: OptimConfig) -> float:
    """Learning rate of `step` (from 0) / peak: linear warm-up, then cosine, linear or constant decay.

    >>> rate_scale(0, 100, OptimConfig(warmup_steps=10))
    0.1
    """
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return 1.0
    done = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    left = 0.5 * (1 + math.cos(math.pi * done)) if optim.schedule == "cosine" else 1 - done
    return optim.final_ratio + (1 - optim.final_ratio) * left


def make_optimizer(table: list[FreezeRow], optim: OptimConfig) -> torch.optim.AdamW:
    """One group for each (pattern, decay): `name` and `peak` are kept in the group.

    Weight decay is for matrices; norms, biases and embeddings have none.
    """
    groups: list[dict[str, Any]] = []
    for row in table:
        if not row.rate:
            continue
        for decayed in (True, False):
            chosen = [p for name, p, matrix in row.members if matrix == decayed]
            if chosen:
                decay = optim.weight_decay if decayed else 0.0
                groups.append(
                    {"params": chosen, "lr": row.rate, "peak": row.rate, "name": row.pattern, "weight_decay": decay}
                )
    return torch.optim.AdamW(groups, lr=0.0, betas=optim.betas, eps=optim.eps)


def set_rates(optimizer: Any, scale: float) -> dict[str, float]:
    """Set every group's learning rate to peak * scale; returns it by pattern."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale
        rates[group["name"]] = group["lr"]
    return rates
