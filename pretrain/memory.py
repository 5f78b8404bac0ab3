"""What a rank's memory goes to, by item; and what to say when it runs out.

The items are those of `looksay estimate` (cluster/cost): arithmetic on plain numbers, so that it also answers after an
allocation failed.
"""

from typing import Any

import torch
from torch import Tensor

from cluster.cost.activations import Numbers, activations
from cluster.cost.gathers import gathers
from cluster.cost.load import Load
from cluster.cost.parts import frozen_outside, make_model
from cluster.cost.states import states
from configs.schema import TrainRecipe
from data_pipeline.stream.batch import Batch
from pretrain.engine import Engine
from pretrain.loads import load_of
from pretrain.mesh import Mesh, attention_dtype, has_gpu, math_dtype, param_dtype

MIB = 2**20
FP32 = 4
MARKS = ("out of memory", "not enough memory", "can't allocate memory", "DefaultCPUAllocator")


def memory_table(recipe: TrainRecipe, load: Load, vocabulary: int, dp: int, tp: int) -> dict[str, float]:
    """Item -> bytes on one rank in a micro-step of `load`."""
    parallel, features_only = recipe.parallel, recipe.data.cache_features
    model = make_model(recipe.model, vocabulary, tp, recipe.stage.train, features_only)
    numbers, gpu = numbers_of(recipe), has_gpu()
    held = states(model.weights, parallel.zero, dp, tp, numbers.weight, micro_steps=2, overlap=gpu, buckets_whole=gpu)
    kept = activations(model, load, numbers)
    items = {
        "weights": float(held.weights),
        "gradients": float(held.gradients),
        "master weights and moments": float(held.optimizer),
        "gradient bucket": float(held.bucket),
        **{f"activations of the {part}": size for part, size in kept.by_part.items()},
        "passing buffers": kept.spike,
        "frozen network": 0.0 if features_only else frozen_outside(recipe.model) * float(FP32),
    }
    if parallel.zero == 3:
        items["gathered weights"] = float(gathers(model, dp, parallel.persistence_threshold).peak * numbers.weight)
    return {name: size for name, size in items.items() if size}


def numbers_of(recipe: TrainRecipe) -> Numbers:
    """Bytes of the dtypes that this machine computes a recipe in."""
    math = math_dtype(recipe.parallel.precision, recipe.parallel.math)

    def size(dtype: torch.dtype) -> int:
        return torch.finfo(dtype).bits // 8

    return Numbers(size(param_dtype(recipe.parallel.precision)), size(math), size(attention_dtype(math)), has_gpu())


def remedies(recipe: TrainRecipe, load: Load, vocabulary: int, dp: int, tp: int) -> list[tuple[str, float]]:
    """Settings that free memory, with the bytes of each, most first (three at most)."""
    parallel, stage = recipe.parallel, recipe.stage
    now = sum(memory_table(recipe, load, vocabulary, dp, tp).values())

    def freed(changed: TrainRecipe, other: Load, degree: int = tp) -> float:
        return now - sum(memory_table(changed, other, vocabulary, max(1, dp * tp // degree), degree).values())

    rows, length = round(load.rows), recipe.data.packing.length
    found = [(f"data.packing.length={length // 2}", freed(recipe, load.scaled(0.5)))]
    if rows > 1:
        found.append((f"parallel.rows_per_rank={rows // 2}", freed(recipe, load.scaled(rows // 2 / rows))))
    if parallel.zero < 3:
        higher = recipe.model_copy(update={"parallel": parallel.model_copy(update={"zero": 3})})
        found.append(("parallel.zero=3", freed(higher, load)))
    if recipe.model.decoder.heads % (tp * 2) == 0:
        found.append((f"parallel.tp={tp * 2}", freed(recipe, load, tp * 2)))
    for part in stage.train if len(stage.train) > 1 else ():
        rest = {name: rate for name, rate in stage.train.items() if name != part}
        fewer = recipe.model_copy(update={"stage": stage.model_copy(update={"train": rest})})
        found.append((f"stage.train without {part}", freed(fewer, load)))
    return sorted((one for one in found if one[1] > 0), key=lambda item: -item[1])[:3]


def is_out_of_memory(error: BaseException) -> bool:
    """GPU and CPU allocators say it in different types; a wrong size elsewhere is a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in MARKS)


def out_of_memory(recipe: TrainRecipe, mesh: Mesh, batch: Batch, vocabulary: int) -> str:
    """The message: the fullest row, memory by item, and three settings with the bytes that each frees."""
    load, dp, tp = load_of(batch, recipe.model), mesh.dp_size, mesh.tp_size
    fullest = max(batch.rows, key=lambda row: row.patches + row.tokens)
    items = memory_table(recipe, load, vocabulary, dp, tp)
    listed = "".join(
        f"\n  {name:<28} {size / MIB:12,.1f} MiB" for name, size in sorted(items.items(), key=lambda i: -i[1])
    )
    frees = "".join(
        f"\n  --set {name:<40} frees {size / MIB:,.1f} MiB" for name, size in remedies(recipe, load, vocabulary, dp, tp)
    )
    return (
        f"out of memory on rank {mesh.rank} in a micro-step of {len(batch.ids)} rows; its heaviest is row {fullest.row} "
        f"({fullest.tokens} tokens, {fullest.visual} visual, {fullest.patches} patches). By item:{listed}\ntry one of:{frees}"
    )


def held_bytes(engine: Engine) -> int:
    """Bytes of parameters, master weights, moments and gradient accumulators that this rank holds."""
    seen: dict[int, int] = {}

    def count(tensor: Any) -> None:
        if isinstance(tensor, Tensor) and tensor.numel():
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()

    for parameter in engine.module.parameters():
        count(parameter.ds_tensor if engine.zero == 3 else parameter.data)
    for tensor, state in engine.base_optimizer.state.items():
        count(tensor)
        for value in state.values():
            count(value)
    for name in ("fp32_partitioned_groups_flat", "grad_partitions_flat_buffer", "fp32_groups_gradients_flat"):
        held = getattr(engine.optimizer, name, None)
        for tensor in held if isinstance(held, list) else [held]:
            count(tensor)
    return sum(seen.values())
