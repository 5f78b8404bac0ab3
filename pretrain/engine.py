"""Everything DeepSpeed: birth of parameters under ZeRO, the step, and access to what each rank holds.

ZeRO partitions over the *data-parallel* group only (given explicitly: with `mpu` alone, `zero.Init` would cut TP shards
over all ranks). Gradients accumulate and travel in fp32 whatever the weights are.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.training import ParallelConfig
from pretrain.mesh import Mesh, math_dtype
from pretrain.model.decoder import DecoderLayer
from pretrain.model.inputs import Inputs
from pretrain.model.linear import logical_of
from pretrain.model.vlm import Output
from pretrain.zero_config import engine_config

KINDS = ("master", "exp_avg", "exp_avg_sq")
"""fp32 weights and AdamW's two moments: what there is of each trained parameter."""


@dataclass(frozen=True)
class Held:
    """Elements [start, stop) of a parameter's flattened TP slice, and live flat views of them by kind."""

    start: int
    stop: int
    views: dict[str, Tensor]


class Engine:
    """The model under DeepSpeed. Every rank calls everything equally often (lockstep)."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parallel: ParallelConfig,
        mesh: Mesh,
        micro_steps: int,
        clip: float,
    ):
        import deepspeed

        self.mesh, self.zero = mesh, parallel.zero
        self._norm: float | None = None
        self.skipped = False
        """The last update was left out, because the gradient was not finite (on all ranks alike)."""
        self._linked = False
        self.math = math_dtype(parallel.precision, parallel.math)
        config = engine_config(parallel, micro_steps, clip)
        config["train_batch_size"] = micro_steps * mesh.dp_size
        trained = [p for p in model.parameters() if p.requires_grad]
        if parallel.zero == 3 and any(isinstance(module, DecoderLayer) for module in model.modules()):
            # One gather a decoder layer (or projector) rather than one a linear: a third of the hooks' time.
            deepspeed.utils.set_z3_leaf_modules(model, [DecoderLayer])
        self.deepspeed, self.optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            model_parameters=trained,
            config=config,
            mpu=mesh.mpu,
            dist_init_required=False,
        )

    @property
    def module(self) -> nn.Module:
        return self.deepspeed.module

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups (learning rates are set here)."""
        return self.optimizer.param_groups

    def forward(self, inputs: Inputs) -> Output:
        return self.deepspeed(inputs)

    def backward(self, loss: Tensor) -> None:
        """Gradients of one micro-step; `loss` is already scaled (pretrain/loss.py), so DeepSpeed must not divide."""
        self.deepspeed.backward(loss, scale_wrt_gas=False)

    def step(self) -> None:
        """After each micro-step; updates weights at the last one of an optimizer step."""
        boundary = self.deepspeed.is_gradient_accumulation_boundary()
        if self._plain and boundary:
            self._norm = self._plain_norm()
            self.skipped = not math.isfinite(self._norm)
        with self._without_update() if self._plain and boundary and self.skipped else contextlib.nullcontext():
            self.deepspeed.step()
        if boundary and not self._plain:
            self.skipped = bool(self.optimizer.overflow)  # it leaves such an update out by itself

    @contextlib.contextmanager
    def _without_update(self) -> Iterator[None]:
        """DeepSpeed steps the plain optimizer whatever the gradient is."""
        self.optimizer.step = lambda *_: None
        try:
            yield
        finally:
            del self.optimizer.step

    def grad_norm(self) -> float:
        """Norm of the step's whole gradient before clipping; what TP replicates is counted once."""
        norm = self._norm if self._plain else self.deepspeed.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def _plain_norm(self) -> float:
        """DeepSpeed keeps no norm where it wraps no optimizer."""
        squares = torch.zeros(1, dtype=torch.float64, device=self.mesh.device)
        for parameter in self.module.parameters():
            if parameter.grad is not None and (logical_of(parameter).axis is not None or self.mesh.tp_rank == 0):
                squares += parameter.grad.double().square().sum()
        if self.mesh.tp_size > 1:
            dist.all_reduce(squares, group=self.mesh.tp_group)
        return float(squares.sqrt())

    # ---- what this rank holds -------------------------------------------------------------------------------

    def held(self, parameter: nn.Parameter, kinds: Sequence[str]) -> Held | None:
        """What this rank writes of a parameter: every element of the model once over all ranks, ZeRO's padding never.

        The views are live. ZeRO 1 to 3: this rank's range. What data-parallel ranks hold alike (stage 0, and frozen
        parameters below stage 3) is shared out among them. A parameter that TP does not cut is TP rank 0's.
        """
        if logical_of(parameter).axis is None and self.mesh.tp_rank != 0:
            return None
        if self._alike(parameter):
            share = -(-parameter.numel() // self.mesh.dp_size)
            start = min(self.mesh.dp_rank * share, parameter.numel())
            stop = min(start + share, parameter.numel())
            whole = self._whole(parameter, kinds)
            return Held(start, stop, {k: view[start:stop] for k, view in whole.items()}) if stop > start else None
        return self._range(parameter, kinds)

    def wanted(self, parameter: nn.Parameter, kinds: Sequence[str]) -> list[Held]:
        """What this rank has to be given of a parameter to resume; `weights_follow` comes after all of them."""
        if self._alike(parameter):
            return [Held(0, parameter.numel(), self._whole(parameter, kinds))]
        held = self._range(parameter, kinds)
        return [held] if held is not None else []

    def weights_follow(self) -> None:
        """Set the weights that forward uses from fp32 masters that were filled. A collective of data-parallel ranks at stages 1 and 2."""
        if self.zero == 3:
            for parameter in self.module.parameters():
                held = self._range(parameter, KINDS[:1]) if parameter.requires_grad else None
                if held is not None:
                    view = held.views["master"]
                    parameter.ds_tensor.data[: len(view)].copy_(view)
        elif not self._plain:
            self.optimizer.update_lp_params()

    def weight_and_master(self, parameter: Any) -> tuple[Tensor, Tensor] | None:
        """This rank's range of a trained parameter as forward uses it, and its fp32 master; None where they are one."""
        held = None if self._plain else self._range(parameter, KINDS[:1])
        if held is None:
            return None
        weight = parameter.ds_tensor.detach().view(-1) if self.zero == 3 else parameter.detach().view(-1)[held.start :]
        return weight[: held.stop - held.start], held.views["master"]

    def visible(self, parameter: Any) -> Tensor:
        """What of a parameter lies open on this rank: its partition at stage 3, else all of its slice."""
        held: Tensor = parameter.ds_tensor.detach() if self.zero == 3 else parameter.detach()
        return held

    def _alike(self, parameter: nn.Parameter) -> bool:
        """All data-parallel ranks hold the whole slice."""
        return self._plain or (self.zero != 3 and not parameter.requires_grad)

    def _whole(self, parameter: nn.Parameter, kinds: Sequence[str]) -> dict[str, Tensor]:
        state = self.optimizer.state[parameter] if len(kinds) > 1 else {}
        return {kind: (state[kind] if kind != "master" else parameter.detach()).view(-1) for kind in kinds}

    def _range(self, parameter: Any, kinds: Sequence[str]) -> Held | None:
        """This rank's flat range of a partitioned parameter."""
        if self.zero == 3:
            share = parameter.ds_tensor.numel()
            start = min(self.mesh.dp_rank * share, parameter.ds_numel)
            stop = min(start + share, parameter.ds_numel)
            if stop <= start:
                return None
            if not parameter.requires_grad:
                return Held(start, stop, {"master": parameter.ds_tensor.detach().view(-1)[: stop - start]})
            views = {kind: self.optimizer.get_local_fp32_param(parameter, _key(kind)) for kind in kinds}
            return Held(start, stop, {kind: view.detach().view(-1)[: stop - start] for kind, view in views.items()})
        fragment = parameter._hp_mapping
        if fragment is None:
            return None
        if len(kinds) > 1 and not self._linked:
            self._relink()
        start = fragment.lp_fragment_address.start
        views = {kind: fragment.get_hp_fragment(_key(kind)).detach() for kind in kinds}
        return Held(start, start + fragment.lp_fragment_address.numel, views)

    @property
    def _plain(self) -> bool:
        """DeepSpeed left the optimizer as it is (stage 0 in fp32)."""
        return isinstance(self.optimizer, torch.optim.Optimizer)

    @property
    def base_optimizer(self) -> torch.optim.Optimizer:
        """torch's AdamW, inside whatever DeepSpeed made of it."""
        return self.optimizer if self._plain else self.optimizer.optimizer

    def optimizer_steps(self) -> int:
        """How many updates AdamW has made (its bias correction depends on it)."""
        for state in self.base_optimizer.state.values():
            if "step" in state:
                return int(state["step"])
        return 0

    def has_moments(self) -> bool:
        """Whether AdamW has made an update, and so has moments."""
        return any("step" in state for state in self.base_optimizer.state.values())

    def set_optimizer_steps(self, steps: int) -> None:
        """Set AdamW's count of updates."""
        for state in self.base_optimizer.state.values():
            if "step" in state:
                state["step"].fill_(float(steps))

    def prepare_state(self, steps: int) -> None:
        """Give AdamW zero moments and `steps` updates behind it, so that `put` has something to fill."""
        base = self.base_optimizer
        if self._plain:
            tensors = [p for group in base.param_groups for p in group["params"]]
        else:
            tensors = list(
                getattr(self.optimizer, "fp32_partitioned_groups_flat", None) or _flat_groups(self.optimizer)
            )
        for tensor in tensors:
            base.state[tensor] = {
                "step": torch.tensor(float(steps)),
                "exp_avg": torch.zeros_like(tensor.data),
                "exp_avg_sq": torch.zeros_like(tensor.data),
            }
        if not self._plain and self.zero != 3:
            self._relink()

    def _relink(self) -> None:
        """Stages 0-2 keep a map from each parameter to its place in the moments: made again for the new moments.

        DeepSpeed 0.19 makes it after the first group's first update, when the other groups have no moments yet.
        """
        self._linked = True
        self.optimizer._hp_optimizer_states_linked = False
        self.optimizer._lazy_init_hp_params_optimizer_state()


def _key(kind: str) -> str | None:
    """DeepSpeed's name of a kind."""
    return None if kind == "master" else kind


def _flat_groups(optimizer: Any) -> list[Tensor]:
    """The flat fp32 tensors that AdamW steps, of ZeRO 1-2 or of the bf16 optimizer of stage 0."""
    for name in ("single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        found = getattr(optimizer, name, None)
        if found:
            return list(found)
    raise RuntimeError(
        f"cannot find the fp32 groups of {type(optimizer).__name__}: this DeepSpeed is not a tested version"
    )
