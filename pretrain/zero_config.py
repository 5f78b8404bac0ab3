"""What DeepSpeed is told, and parameters that are partitioned as they are born."""

import contextlib
from collections.abc import Iterator
from typing import Any

from configs.training import ParallelConfig
from pretrain.mesh import Mesh, has_gpu


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


@contextlib.contextmanager
def unpartitioned() -> Iterator[None]:
    """What is made inside stays whole, also within `born`: a network that is no part of the parameters."""
    from deepspeed.runtime.zero import partition_parameters

    partition_parameters.shutdown_init_context()
    try:
        yield
    finally:
        partition_parameters.restore_init_context()
