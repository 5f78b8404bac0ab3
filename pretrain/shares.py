"""Work dealt over the ranks, results gathered on all of them: no rank waits while another has more than its share."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pretrain.mesh import Mesh


def deal(mesh: Mesh, count: int, work: Callable[[list[int]], list[Any]]) -> list[Any]:
    """Call `work(places)` with this rank's share of range(count); all results in order of place, on every rank.

    Args:
        work: gives one JSON value for each place. It runs no collective.
    """
    mine = list(range(mesh.rank, count, mesh.world))
    made = work(mine) if mine else []
    assert len(made) == len(mine), f"{len(made)} results for {len(mine)} places"
    out: list[Any] = [None] * count
    for rank, part in enumerate(gather(mesh, made)):
        out[rank :: mesh.world] = part
    return out


def gather(mesh: Mesh, value: Any) -> list[Any]:
    """The JSON value of every rank, in order of rank. JSON and tensors: nothing is unpickled."""
    if mesh.world == 1:
        return [value]
    data = torch.from_numpy(np.frombuffer(json.dumps(value).encode(), np.uint8).copy()).to(mesh.device)
    size = torch.tensor([len(data)], device=mesh.device)
    sizes = [torch.zeros_like(size) for _ in range(mesh.world)]
    dist.all_gather(sizes, size)
    longest = max(int(n) for n in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=mesh.device)
    padded[: len(data)] = data
    parts = [torch.empty_like(padded) for _ in range(mesh.world)]
    dist.all_gather(parts, padded)
    return [json.loads(part[: int(n)].cpu().numpy().tobytes()) for part, n in zip(parts, sizes, strict=True)]
