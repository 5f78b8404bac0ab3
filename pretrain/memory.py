"""What a rank's memory goes to, by item; and what to say when it runs out.

Arithmetic on plain numbers, so that it also answers after an allocation failed. Activations count what one layer saves
for backward: normed inputs, q, k, v, attention's output, gate, up and their product, in the math dtype.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs.schema import TrainRecipe
from data_pipeline.stream.batch import Batch
from pretrain.engine import Engine
from pretrain.mesh import Mesh, math_dtype, param_dtype
from pretrain.metrics import layer_weights

MIB = 2**20
MARKS = ("out of memory", "not enough memory", "can't allocate memory", "DefaultCPUAllocator")


@dataclass(frozen=True)
class Sizes:
    """Elements of the whole model, and shape of one micro-step on one rank."""

    parameters: int
    trained: int
    rows: int
    length: int
    labels: int
    visual: int
    vocabulary: int


def memory_table(recipe: TrainRecipe, sizes: Sizes, dp: int, tp: int) -> dict[str, float]:
    """Item -> bytes on one rank."""
    parallel, decoder = recipe.parallel, recipe.model.decoder
    weight = torch.finfo(param_dtype(parallel.precision)).bits // 8
    math = torch.finfo(math_dtype(parallel.precision, parallel.math)).bits // 8

    def cut(stage: int) -> int:
        return tp * (dp if parallel.zero >= stage else 1)

    tokens = sizes.rows * sizes.length
    layer = 6 * decoder.width + (3 * decoder.width + 4 * decoder.mlp_width) / tp
    table = {
        "parameters": sizes.parameters * weight / cut(3),
        "master weights and moments": sizes.trained * 12 / cut(1),
        "gradients": sizes.trained * 4 / cut(2) + sizes.trained * weight / cut(3),
        "activations of the decoder": tokens * decoder.layers * layer * math,
        "logits of learned tokens": 3 * sizes.labels * sizes.vocabulary / tp * 4,
        "visual features": sizes.visual * decoder.width * 4 * math,
    }
    if parallel.zero == 3:
        table["a layer gathered whole"] = 2 * layer_weights(decoder) * weight / tp
    return table


def remedies(recipe: TrainRecipe, sizes: Sizes, dp: int, tp: int) -> list[tuple[str, float]]:
    """Settings that free memory, with the bytes of each, most first (at least three)."""
    parallel, now = recipe.parallel, sum(memory_table(recipe, sizes, dp, tp).values())

    def freed(changed: TrainRecipe, other: Sizes, degree: int = tp) -> float:
        return now - sum(memory_table(changed, other, max(1, dp * tp // degree), degree).values())

    found = []
    if sizes.rows > 1:
        half = Sizes(
            **{**vars(sizes), "rows": sizes.rows // 2, "labels": sizes.labels // 2, "visual": sizes.visual // 2}
        )
        found.append((f"parallel.rows_per_rank={sizes.rows // 2}", freed(recipe, half)))
    short = Sizes(
        **{**vars(sizes), "length": sizes.length // 2, "labels": sizes.labels // 2, "visual": sizes.visual // 2}
    )
    found.append((f"data.packing.length={sizes.length // 2}", freed(recipe, short)))
    if parallel.zero < 3:
        higher = recipe.model_copy(update={"parallel": parallel.model_copy(update={"zero": 3})})
        found.append(("parallel.zero=3", freed(higher, sizes)))
    if recipe.model.decoder.heads % (tp * 2) == 0:
        found.append((f"parallel.tp={tp * 2}", freed(recipe, sizes, tp * 2)))
    part = next(iter(recipe.stage.train))
    projector = Sizes(**{**vars(sizes), "trained": sizes.trained // 10})
    found.append((f"stage.train without {part} (a tenth trained)", freed(recipe, projector)))
    return sorted(found, key=lambda item: -item[1])[:3]


def is_out_of_memory(error: BaseException) -> bool:
    """GPU and CPU allocators say it in different types; a wrong size elsewhere is a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in MARKS)


def out_of_memory(
    recipe: TrainRecipe, mesh: Mesh, batch: Batch, table: Iterable[dict[str, object]], vocabulary: int
) -> str:
    """The message: the fullest row, memory by item, and three settings with the bytes that each frees."""
    rows = list(table)
    counts = [(int(str(row["parameters"])), bool(row["trainable"])) for row in rows]
    sizes = Sizes(
        parameters=sum(n for n, _ in counts),
        trained=sum(n for n, trained in counts if trained),
        rows=batch.ids.shape[0],
        length=batch.ids.shape[1],
        labels=batch.label_tokens,
        visual=len(batch.vision.slots),
        vocabulary=vocabulary,
    )
    fullest = max(batch.rows, key=lambda row: row.patches + row.tokens)
    items = memory_table(recipe, sizes, mesh.dp_size, mesh.tp_size)
    listed = "".join(
        f"\n  {name:<28} {size / MIB:12,.1f} MiB" for name, size in sorted(items.items(), key=lambda i: -i[1])
    )
    frees = "".join(
        f"\n  --set {name:<40} frees {size / MIB:,.1f} MiB"
        for name, size in remedies(recipe, sizes, mesh.dp_size, mesh.tp_size)
    )
    return (
        f"out of memory on rank {mesh.rank} in a micro-step of {sizes.rows} rows; its heaviest is row {fullest.row} "
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
