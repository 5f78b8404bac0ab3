"""Matrix products by size, memory bandwidth, collectives between ranks: seconds of the fastest of several calls."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from pretrain.mesh import Mesh, has_gpu, synchronize

SIZES, QUICK_SIZES = (128, 256, 512, 1024, 2048), (256, 1024)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LARGE, SMALL = 64 * 2**20, 2 * 2**20
"""Bytes of an array that no cache holds, and of one that most do (what a layer's activations are)."""


def clock(mesh: Mesh) -> Callable[[], float]:
    """Seconds for timing work of this rank alone. A rank of one thread on a host reads its own CPU time: that is the wall's on
    an idle machine, and what others do there does not count."""
    own = not has_gpu() and torch.get_num_threads() == 1
    return time.process_time if own else time.perf_counter


def fastest(work: Callable[[], Any], mesh: Mesh, seconds: float = 0.3) -> float:
    """Seconds of one call, the fastest within `seconds`: others may use the machine too."""
    work()
    synchronize(mesh.device)
    now = clock(mesh)
    best, end, count = float("inf"), now() + seconds, 0
    while now() < end or count < 3:
        start = now()
        work()
        synchronize(mesh.device)
        best = min(best, now() - start)
        count += 1
    return best


def in_step(work: Callable[[], Any], mesh: Mesh, times: int) -> float:
    """The same of a collective, which all ranks must call equally often."""
    best = float("inf")
    for _ in range(times + 1):
        dist.barrier()
        start = time.perf_counter()
        work()
        synchronize(mesh.device)
        best = min(best, time.perf_counter() - start)
    return best


def matrix_products(mesh: Mesh, quick: bool) -> dict[str, dict[str, float]]:
    """dtype -> size -> FLOP/s of square products."""
    table: dict[str, dict[str, float]] = {}
    for name, dtype in DTYPES.items():
        for size in QUICK_SIZES if quick else SIZES:
            left, right = (torch.randn(size, size, device=mesh.device).to(dtype) for _ in range(2))
            taken = fastest(partial(torch.matmul, left, right), mesh, 0.15 if quick else 0.3)
            table.setdefault(name, {})[str(size)] = 2.0 * size**3 / taken
    return table


def memory(mesh: Mesh) -> dict[str, float]:
    """Bytes per second of sums, read and written: of arrays in memory, and of arrays that caches hold."""
    found = {}
    for name, size in (("memory", LARGE), ("cache", SMALL)):
        a, b = (torch.ones(size // 4, device=mesh.device) for _ in range(2))
        found[name] = 3.0 * size / fastest(partial(torch.add, a, b, out=a), mesh)
    return found


def collectives(mesh: Mesh, quick: bool) -> dict[str, float]:
    """Seconds of a tiny all-reduce; bytes per second that each rank sends in a large one, and in an all-gather."""
    if mesh.world == 1:
        return {}
    size, tiny = (4 if quick else 16) * 2**20, torch.zeros(1, device=mesh.device)
    large = torch.zeros(size // 4, device=mesh.device)
    part = torch.zeros(size // 4 // mesh.world, device=mesh.device)
    whole = torch.zeros(part.numel() * mesh.world, device=mesh.device)
    share, times = (mesh.world - 1) / mesh.world, 6 if quick else 12
    reduced = in_step(lambda: dist.all_reduce(large), mesh, times)
    gathered = in_step(lambda: dist.all_gather_into_tensor(whole, part), mesh, times)
    return {
        "latency": in_step(lambda: dist.all_reduce(tiny), mesh, 50),
        "all_reduce": 2 * share * size / reduced,
        "all_gather": share * whole.numel() * 4 / gathered,
    }
