"""Who we are among the ranks, and on what device: the only module that knows devices.

Megatron-core owns the tensor-parallel groups, DeepSpeed gets the data-parallel group and an `mpu` adapter.
Imports of torch, megatron and deepspeed happen inside functions: they cost seconds.
"""

import datetime
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from cluster.place import Place
from configs.errors import UserError

# DeepSpeed calls names that torch has deprecated, thousands of times a run.
warnings.filterwarnings("ignore", message=".*is deprecated. Please use.*", category=FutureWarning)

# Megatron says at every import that optional GPU libraries are missing: nothing that a user can act on.
warnings.filterwarnings("ignore", category=UserWarning, module="megatron")

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Megatron-core asks for the current CUDA device even on machines without one; this is the one place that answers.
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]


@dataclass(frozen=True)
class Mesh:
    """Coordinates of this rank. TP ranks are neighbours; the data-parallel group holds the same TP rank of each."""

    rank: int
    world: int
    tp_rank: int
    tp_size: int
    dp_rank: int
    dp_size: int
    device: torch.device
    tp_group: Any
    dp_group: Any
    mpu: Any
    node: int = 0
    local_rank: int = 0
    local_world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0


class MegatronUnits:
    """What DeepSpeed calls `mpu`, on Megatron's parallel_state.

    It must not offer `initialize_sequence_parallel`: with it ZeRO-3 leaves the model-parallel group out of the norm.
    """

    def __init__(self, parallel_state: Any):
        self._state = parallel_state

    def get_model_parallel_group(self) -> Any:
        return self._state.get_tensor_model_parallel_group()

    def get_model_parallel_rank(self) -> int:
        return self._state.get_tensor_model_parallel_rank()

    def get_model_parallel_world_size(self) -> int:
        return self._state.get_tensor_model_parallel_world_size()

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size

    def get_data_parallel_group(self) -> Any:
        return self._state.get_data_parallel_group()

    def get_data_parallel_rank(self) -> int:
        return self._state.get_data_parallel_rank()

    def get_data_parallel_world_size(self) -> int:
        return self._state.get_data_parallel_world_size()


def has_gpu() -> bool:
    return torch.cuda.is_available()


def backend_and_device(local_rank: int) -> tuple[str, torch.device]:
    """nccl on this rank's GPU where there is one, else gloo on the CPU."""
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return "nccl", device
    return "gloo", torch.device("cpu")


def forbid_compilers_nobody_has() -> None:
    """DeepSpeed builds a shared-memory op at start and fails without a compiler; torch's own collectives serve."""
    import deepspeed.ops

    if torch.cuda.is_available() and shutil.which("ninja") and (shutil.which("c++") or shutil.which("g++")):
        return
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def init_mesh(
    place: Place | None,
    tp: int,
    timeout_seconds: float = 300.0,
    init_method: str | None = None,
    on_store: Callable[[Any], None] | None = None,
) -> Mesh:
    """Join the other ranks (or stand alone when `place` is None) and form the TP and DP groups.

    Args:
        on_store: gets the job's key-value store before the groups are formed.

    Raises:
        UserError: the number of ranks is not a multiple of `tp`.
    """
    import deepspeed

    rank, world = (place.rank, place.world) if place else (0, 1)
    backend, device = backend_and_device(place.local_rank if place else 0)
    os.environ["LOCAL_RANK"] = str(place.local_rank if place else 0)  # DeepSpeed asks for it, whoever launched us
    timeout = datetime.timedelta(seconds=timeout_seconds)
    forbid_compilers_nobody_has()
    if not dist.is_initialized():
        if init_method is None:
            if place is None:
                init_method = f"file://{tempfile.mkdtemp(prefix='looksay-')}/store"
            else:
                init_method = f"tcp://{place.master_addr}:{place.master_port}"
        store, rank, world = next(dist.rendezvous(init_method, rank, world, timeout=timeout))
        if on_store is not None:
            on_store(store)
        groups = dist.PrefixStore("groups", store)
        dist.init_process_group(backend, store=groups, rank=rank, world_size=world, timeout=timeout)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, dist_init_required=False, timeout=timeout)
    mesh = _form(tp, rank, world, device, timeout_seconds)
    if place is None:
        return mesh
    return replace(mesh, node=place.node, local_rank=place.local_rank, local_world=place.local_world)


def set_tensor_parallel(mesh: Mesh, tp: int, timeout_seconds: float = 300.0) -> Mesh:
    """The same ranks in TP groups of another size."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    formed = _form(tp, mesh.rank, mesh.world, mesh.device, timeout_seconds)
    return replace(formed, node=mesh.node, local_rank=mesh.local_rank, local_world=mesh.local_world)


def _form(tp: int, rank: int, world: int, device: torch.device, timeout_seconds: float) -> Mesh:
    from megatron.core import parallel_state

    if world % tp:
        fits = [n for n in range(1, world + 1) if world % n == 0]
        raise UserError(f"parallel.tp {tp} does not divide the {world} ranks of this job: use one of {fits}")
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tp,
        create_gloo_process_groups=False,
        distributed_timeout_minutes=timeout_seconds / 60,  # type: ignore[arg-type]  # it makes a timedelta of it
    )
    return Mesh(
        rank=rank,
        world=world,
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        tp_size=tp,
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_size=parallel_state.get_data_parallel_world_size(),
        device=device,
        tp_group=parallel_state.get_tensor_model_parallel_group(),
        dp_group=parallel_state.get_data_parallel_group(),
        mpu=MegatronUnits(parallel_state),
    )


def destroy_mesh() -> None:
    """Leave all groups, so that another mesh can be formed in this process."""
    import deepspeed
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
    deepspeed.comm.comm.cdb = None


@contextmanager
def alone() -> Iterator[Mesh]:
    """This process by itself, for one question; afterwards it can form a mesh again."""
    try:
        yield init_mesh(None, 1)
    finally:
        destroy_mesh()


def param_dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def math_dtype(precision: str, math: str = "auto") -> torch.dtype:
    """The dtype of matrix products. A CPU without bf16 instructions is ~100x slower in bf16 than in fp32
    (measured on Zen 3: 0.3-1.2 against 40-75 GFLOP/s), so `auto` keeps bf16 weights and computes in fp32 there."""
    if precision == "fp32" or math == "fp32":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_available() or _cpu_has_bf16() else torch.float32


@cache
def attention_dtype(math: torch.dtype) -> torch.dtype:
    """The dtype of scaled dot products: `math`, but fp32 for bf16 on a CPU without AMX. There the fused kernel is 4x
    slower in bf16 on segments of 70 (measured on Zen 4, forward + backward: 5.4 against 1.3 ms), equal on 512."""
    slow = math == torch.bfloat16 and not torch.cuda.is_available() and "amx_bf16" not in _cpu_flags()
    return torch.float32 if slow else math


def _cpu_has_bf16() -> bool:
    flags = _cpu_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags


@cache
def _cpu_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
    except OSError:  # not Linux: assume the slow case, which is merely slower when wrong
        return frozenset()


def synchronize(device: torch.device) -> None:
    """Wait for what was asked of a GPU; nothing to wait for elsewhere."""
    if device.type != "cpu":
        torch.cuda.synchronize(device)


def device_mark() -> Any:
    """A mark behind all that was asked of this thread's GPU so far, for `copy_beside`."""
    return torch.cuda.current_stream().record_event()


def copy_beside(mark: Any, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy GPU tensors into pinned host tensors [(target, source)] on a stream of its own, once `mark` is reached; wait for it."""
    if not pairs:
        return
    stream = torch.cuda.Stream(pairs[0][1].device)
    stream.wait_event(mark)
    with torch.cuda.stream(stream):
        for target, source in pairs:
            target.copy_(source, non_blocking=True)
    stream.synchronize()


def hardware() -> dict[str, Any]:
    """What this machine is, for reports: {device, name, cores, threads, bf16}."""
    name = "unknown processor"
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        name = "unknown processor"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
    return {
        "device": "gpu" if torch.cuda.is_available() else "processor",
        "name": name,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "bf16": torch.cuda.is_available() or _cpu_has_bf16(),
    }


def matmul_peak(dtype: torch.dtype, device: torch.device, size: int = 1024, seconds: float = 0.4) -> float:
    """FLOP/s of a size^3 matrix product measured for about `seconds`: the peak that MFU is held against."""
    import time

    a, b = torch.randn(size, size, dtype=dtype, device=device), torch.randn(size, size, dtype=dtype, device=device)
    a @ b
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ b
        count += 1
    synchronize(device)
    return 2.0 * size**3 * count / (time.perf_counter() - start)
