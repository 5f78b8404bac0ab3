"""Small values that all ranks have to know: JSON over the ranks' own collective, never pickle."""

import json
from typing import Any

import torch
import torch.distributed as dist

from pretrain.mesh import Mesh


def gathered(mesh: Mesh, value: Any) -> list[Any]:
    """What every rank of the job says, by rank. A collective."""
    if mesh.world == 1:
        return [value]
    data = json.dumps(value).encode()
    size = torch.tensor([len(data)], device=mesh.device)
    sizes = [torch.empty_like(size) for _ in range(mesh.world)]
    dist.all_gather(sizes, size)
    longest = max(int(each) for each in sizes)
    mine = torch.zeros(longest, dtype=torch.uint8)
    mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    mine = mine.to(mesh.device)
    everyone = [torch.empty_like(mine) for _ in range(mesh.world)]
    dist.all_gather(everyone, mine)
    return [json.loads(bytes(part[: int(n)].tolist())) for part, n in zip(everyone, sizes, strict=True)]


def from_first(mesh: Mesh, value: Any) -> Any:
    """What the first rank says. A collective."""
    return gathered(mesh, value if mesh.is_first else None)[0]
