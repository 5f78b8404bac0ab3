"""Everything DeepSpeed: birth of parameters under ZeRO, the step, and access to what each rank holds.

ZeRO partitions over the *data-parallel* group only (given explicitly: with `mpu` alone, `zero.Init` would cut TP shards
over all ranks). Gradients accumulate and travel in fp32 whatever the weights are.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.training import ParallelConfig
from pretrain.mesh import Mesh, has_gpu, math_dtype
from pretrain.model.decoder import DecoderLayer
from pretrain.model.inputs import Inputs
from pretrain.model.linear import logical_of
from pretrain.model.vlm import Output

KINDS = ("master", "exp_avg", "exp_avg_sq")
"""fp32 weights and AdamW's two moments: what a checkpoint holds for each trained parameter."""


def engine_config(parallel: ParallelConfig, micro_steps: int, clip: float) -> dict[str, Any]:
    """The DeepSpeed configuration. Buckets are small: a CPU rank gains nothing from large ones."""
    zero: dict[str, Any] = {
        "stage": parallel.zero,
        "overlap_comm": has_gpu(),
        "contiguous_gradients": True,
        "round_robin_gradients": False,
    }
    if parallel.zero == 3:
        zero["stage3_param_persistence_threshold"] = parallel.persistence_threshold
        zero["stage3_prefetch_bucket_size"] = 50_000_000
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_steps,
        "zero_optimization": zero,
        "bf16": {"enabled": parallel.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "gradient_clipping": clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


@contextlib.contextmanager
def born(parallel: ParallelConfig, mesh: Mesh) -> Iterator[None]:
    """Parameters made inside are partitioned as they are born under ZeRO-3; plain elsewhere."""
    import deepspeed

    if parallel.zero < 3:
        yield
        return
    config = engine_config(parallel, 1, 0.0)
    config["train_batch_size"] = mesh.dp_size
    # No `dtype` argument: DeepSpeed 0.19 takes bf16 for any dtype given on a device without fp16 (an operator
    # precedence); from the configuration it takes the right one.
    with deepspeed.zero.Init(data_parallel_group=mesh.dp_group, config_dict_or_path=config, mpu=mesh.mpu):
        yield


@dataclass(frozen=True)
class Piece:
    """What this rank holds of one parameter: elements [start, stop) of its flattened TP slice."""

    parameter: nn.Parameter
    start: int
    stop: int


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
        self._linked = False
        self.math = math_dtype(parallel.precision, parallel.math)
        config = engine_config(parallel, micro_steps, clip)
        config["train_batch_size"] = micro_steps * mesh.dp_size
        trained = [p for p in model.parameters() if p.requires_grad]
        if parallel.zero == 3:
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
        if self._plain and self.deepspeed.is_gradient_accumulation_boundary():
            self._norm = self._plain_norm()
        self.deepspeed.step()

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

    def pieces(self) -> list[Piece]:
        """Pieces that this rank must write: each element of the model once over all ranks, ZeRO's padding never.

        ZeRO-3: this rank's flat range of each parameter. Lower stages: whole TP slices, on DP rank 0.
        A parameter that TP does not cut is TP rank 0's.
        """
        out = []
        for parameter in self.module.parameters():
            if logical_of(parameter).axis is None and self.mesh.tp_rank != 0:
                continue
            if self.zero == 3:
                share = (
                    parameter.ds_tensor.ds_numel
                    if hasattr(parameter.ds_tensor, "ds_numel")
                    else parameter.ds_tensor.numel()
                )
                start = min(self.mesh.dp_rank * share, parameter.ds_numel)
                stop = min(start + share, parameter.ds_numel)
            else:
                start, stop = 0, parameter.numel() if self.mesh.dp_rank == 0 else 0
            if stop > start:
                out.append(Piece(parameter, start, stop))
        return out

    def get(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """This rank's flat fp32 values of `kind` (with padding under ZeRO-3; a frozen parameter has `master` only).

        Below stage 3 this is a collective: every rank must ask for the same parameters in the same order.
        """
        from deepspeed.utils import (
            safe_get_full_fp32_param,
            safe_get_full_optimizer_state,
            safe_get_local_fp32_param,
            safe_get_local_optimizer_state,
        )

        if not parameter.requires_grad:
            held = parameter.ds_tensor if self.zero == 3 else parameter
            return held.detach().float().flatten()
        if self.zero == 3:
            value = (
                safe_get_local_fp32_param(parameter)
                if kind == "master"
                else safe_get_local_optimizer_state(parameter, kind)
            )
        elif self._plain:
            value = parameter.detach() if kind == "master" else self.optimizer.state[parameter][kind]
        else:
            if kind != "master" and not self._linked:
                self._relink()
            value = (
                safe_get_full_fp32_param(parameter)
                if kind == "master"
                else safe_get_full_optimizer_state(parameter, kind)
            )
        return value.detach().flatten()

    def put(self, parameter: nn.Parameter, kind: str, slice_: Tensor) -> None:
        """Set `kind` of a parameter from its whole TP slice (any shape, fp32); bf16 weights follow the master."""
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        flat = slice_.detach().float().flatten()
        if self.zero == 3:
            mine = self._my_range(parameter, flat)
            if kind == "master":
                if parameter.requires_grad:
                    safe_set_local_fp32_param(parameter, mine)
                parameter.ds_tensor.data.copy_(mine.to(parameter.ds_tensor.dtype))
            else:
                safe_set_local_optimizer_state(parameter, mine, kind)
            return
        if kind == "master":
            with torch.no_grad():
                parameter.data.copy_(flat.view(parameter.shape))
            if parameter.requires_grad and not self._plain:
                safe_set_full_fp32_param(parameter, flat.view(parameter.shape))
        elif self._plain:
            self.optimizer.state[parameter][kind] = flat.view(parameter.shape).clone()
        else:
            safe_set_full_optimizer_state(parameter, flat.view(parameter.shape), kind)

    @property
    def _plain(self) -> bool:
        """DeepSpeed left the optimizer as it is (stage 0 in fp32)."""
        return isinstance(self.optimizer, torch.optim.Optimizer)

    def _my_range(self, parameter: Any, flat: Tensor) -> Tensor:
        share = parameter.ds_tensor.numel()
        out = flat.new_zeros(share)
        start = self.mesh.dp_rank * share
        part = flat[start : start + share]
        out[: len(part)] = part
        return out

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


def _flat_groups(optimizer: Any) -> list[Tensor]:
    """The flat fp32 tensors that AdamW steps, of ZeRO 1-2 or of the bf16 optimizer of stage 0."""
    for name in ("single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        found = getattr(optimizer, name, None)
        if found:
            return list(found)
    raise RuntimeError(
        f"cannot find the fp32 groups of {type(optimizer).__name__}: this DeepSpeed is not a tested version"
    )
