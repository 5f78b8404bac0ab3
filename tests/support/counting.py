"""Counting what a real engine holds and sends: collectives through torch's dispatcher, saved tensors, states by attribute."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.engine import Engine
from pretrain.mesh import Mesh

OPS = {
    "allreduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "broadcast_": "broadcast",
    "reduce_": "reduce",
    "allgather_into_tensor_coalesced_": "all_gather",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
}
"""c10d's operators by the name that cluster/cost/traffic.py uses."""


class Collectives(TorchDispatchMode):
    """Counts payload bytes of every collective by (operation, group): what a rank has at the larger end."""

    def __init__(self, mesh: Mesh):
        super().__init__()
        self.mesh = mesh
        self.sizes: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.seen: list[tuple[str, str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.split("::")[1]
            if name not in OPS and name not in ("barrier", "monitored_barrier_"):
                raise AssertionError(f"a collective that nobody counts: {name}")
            if name in OPS:
                tensors = list(_tensors([a for a in args if not isinstance(a, torch.ScriptObject)]))
                group = self._group(args)
                if OPS[name] in ("all_gather", "reduce_scatter"):
                    size = max(_total(args[0]), _total(args[1]))
                else:
                    size = sum(t.numel() * t.element_size() for t in tensors)
                self.sizes[OPS[name], group] += size
                self.calls[OPS[name], group] += 1
                self.seen.append((OPS[name], group, size))
        return func(*args, **(kwargs or {}))

    def _group(self, args: Any) -> str:
        held = next(a for a in args if isinstance(a, torch.ScriptObject) and "ProcessGroup" in str(a._type()))
        size = dist.ProcessGroup.unbox(held).size()
        if size == 1:
            return "one"
        name = dist.ProcessGroup.unbox(held).group_name
        if name == self.mesh.tp_group.group_name:
            return "tp"
        return "dp" if name == self.mesh.dp_group.group_name else "world"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _total(value: Any) -> int:
    return sum(t.numel() * t.element_size() for t in _tensors(value))


class SavedTensors:
    """Bytes of unique storages that autograd keeps for backward, parameters left out."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.live: dict[int, tuple[int, str]] = {}
        self.log: list[tuple[str, tuple[int, ...], int]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator["SavedTensors"]:
        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            place = storage.data_ptr()
            weights = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
            if place not in weights and place and place not in self.live:
                self.live[place] = (storage.nbytes(), str(tensor.dtype))
                self.log.append((str(tensor.dtype), tuple(tensor.shape), storage.nbytes()))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield self

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.live.values())


def state_bytes(engine: Engine) -> dict[str, int]:
    """Bytes that this rank holds: weights, gradients, optimizer (moments, and the fp32 copy where it is a copy)."""
    zero, wrapped = engine.zero, engine.optimizer
    weights = [p.ds_tensor if zero == 3 else p.data for p in engine.module.parameters()]
    optimizer = [] if wrapped is engine.base_optimizer else list(engine.base_optimizer.state)
    for state in engine.base_optimizer.state.values():
        optimizer += list(_tensors(list(state.values())))
    gradients = [p.grad for p in engine.module.parameters()] + [
        getattr(p, "grad_accum", None) for p in engine.module.parameters()
    ]
    for name in ("fp32_groups_gradients_flat", "grad_partitions_flat_buffer", "averaged_gradients", "all_grad_tensors"):
        held = getattr(wrapped, name, None)
        for part in held.values() if isinstance(held, dict) else [held]:
            gradients += list(_tensors([getattr(part, "flat_partition", part)]))
    own = _storages(weights)
    return {
        "weights": sum(own.values()),
        "optimizer": sum(size for place, size in _storages(optimizer).items() if place not in own),
        "gradients": sum({t.data_ptr(): t.numel() * t.element_size() for t in gradients if t is not None}.values()),
    }


def _storages(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes of unique storages."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
