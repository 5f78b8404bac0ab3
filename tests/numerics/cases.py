"""What the pool's ranks run: small trainings whose results must agree."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from configs.encoders import ViT
from configs.projectors import GluProjector, PerceiverProjector, QFormerProjector, ResamplerProjector
from configs.resolutions import AnyresResolution, RowColumnResolution, SquareResolution, TilesResolution
from configs.training import OptimConfig, ParallelConfig
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.collate import Ready, collate
from data_pipeline.stream.layout import geometry_of
from pretrain.engine import Engine
from pretrain.loss import micro_loss
from pretrain.memory import held_bytes
from pretrain.mesh import Mesh
from pretrain.model.inputs import to_inputs
from pretrain.model.linear import logical_of
from pretrain.model.vlm import make_model
from pretrain.optim import make_optimizer, set_rates
from pretrain.stages import apply_stage
from pretrain.zero_config import born
from tests.support.worlds import MODEL, PAD, VOCABULARY, batch_of, micro_batches, rows_of

ALL = {"encoder": 0.01, "projector": 0.01, "decoder": 0.01}


def make_engine(
    mesh: Mesh,
    zero: int,
    precision: str,
    micro_steps: int,
    train: dict[str, float] = ALL,
    model: Any = MODEL,
    vocabulary: int = VOCABULARY,
) -> Engine:
    # A large eps: with 1e-8 Adam's first steps turn rounding noise in near-zero gradients into full updates.
    parallel = ParallelConfig(zero=zero, precision=precision, tp=mesh.tp_size)
    with born(parallel, mesh):
        net = make_model(model, vocabulary, mesh, precision, "fp32", seed=7)
    table = apply_stage(net, train)
    return Engine(net, make_optimizer(table, OptimConfig(eps=1e-3)), parallel, mesh, micro_steps, clip=1.0)


def train(
    mesh: Mesh,
    zero: int = 3,
    precision: str = "fp32",
    kind: str = "mixed",
    steps: int = 3,
    per_rank: int = 1,
    rows: int = 8,
    frozen_encoder: bool = False,
    reverse: bool = False,
) -> dict[str, Any]:
    """Losses and gradient norms of some steps, and the final weights by logical name (this rank's TP slices joined later)."""
    world = rows_of(kind)[:rows]
    if reverse:
        world = world[::-1]
    batches = micro_batches(world, mesh.dp_rank, mesh.dp_size, per_rank)
    wanted = {"projector": 0.01, "decoder": 0.01} if frozen_encoder else ALL
    engine = make_engine(mesh, zero, precision, len(batches), wanted)
    losses, norms = [], []
    for _ in range(steps):
        set_rates(engine.optimizer, 1.0)
        total = torch.zeros(2, dtype=torch.float64)
        for batch in batches:
            out = engine.forward(to_inputs(batch, mesh.device))
            engine.backward(micro_loss(out.loss_sum, batch.denominator, mesh.dp_size))
            engine.step()
            total += torch.tensor([float(out.loss_sum), float(out.weight_sum)], dtype=torch.float64)
        if mesh.dp_size > 1:
            torch.distributed.all_reduce(total, group=mesh.dp_group)
        losses.append(float(total[0] / total[1]))
        norms.append(engine.grad_norm())
    return {"losses": losses, "norms": norms, "held": held_bytes(engine)}


def decoder_with(**changes: Any) -> Any:
    return MODEL.model_copy(update={"decoder": MODEL.decoder.model_copy(update=changes)})


def initial_weights(mesh: Mesh, **changes: Any) -> dict[str, Any]:
    """(axis, offset, values) of each parameter of this rank; `changes` to the decoder's configuration."""
    net = make_model(decoder_with(**changes), VOCABULARY, mesh, "fp32", "fp32", seed=7)
    return {
        logical_of(p).name: (logical_of(p).axis, logical_of(p).offset, p.detach().numpy().copy())
        for p in net.parameters()
    }


def arranged(rows: list[list[Ready]], how: str) -> list[list[list[Ready]]]:
    """The same samples as micro-steps of rows."""
    if how == "separate":  # each sample in a row and a micro-step of its own
        return [[[ready]] for row in rows for ready in row]
    if how == "rows":
        return [[rows[n] for n in (3, 7, 0, 5, 2, 6, 1, 4)]]
    if how == "samples":
        return [[row[::-1] for row in rows]]
    return [rows]


def loss_and_gradients(
    mesh: Mesh,
    kind: str = "mixed",
    how: str = "packed",
    backend: str = "auto",
    precision: str = "fp32",
    math: str = "fp32",
    **changes: Any,
) -> dict[str, Any]:
    """Loss sum and every gradient, micro-steps added in fp32; `changes` to the decoder's configuration."""
    net = make_model(decoder_with(**changes), VOCABULARY, mesh, precision, math, seed=7)
    total, gradients = 0.0, {}
    for rows in arranged(rows_of(kind), how):
        net.zero_grad()
        out = net(to_inputs(batch_of(rows), mesh.device, backend))
        out.loss_sum.backward()
        total += float(out.loss_sum.detach())
        for p in net.parameters():
            if p.grad is not None:
                place = logical_of(p)
                _, _, before = gradients.get(place.name, (None, None, 0.0))
                gradients[place.name] = (place.axis, place.offset, before + p.grad.float().numpy())
    return {"loss": total, "gradients": gradients}


def redrawn(ready: Ready) -> Ready:
    """Other text and pixels in the same places."""
    ids = ready.encoded.ids
    other = np.where(ids > 2, 3 + (ids + 40) % (VOCABULARY - 3), ids)
    return replace(
        ready, encoded=replace(ready.encoded, ids=other), images=[255 - image for image in ready.images or ()]
    )


def states_with_one_changed(
    mesh: Mesh, backend: str, places: list[tuple[int, int]], precision: str = "fp32", math: str = "fp32"
) -> list[list[np.ndarray]]:
    """Final hidden states of every sample (flat), as they are and with the sample at each of `places` redrawn."""
    net = make_model(MODEL, VOCABULARY, mesh, precision, math, seed=7)
    out = []
    for place in [None, *places]:
        rows = [
            [redrawn(ready) if place == (r, s) else ready for s, ready in enumerate(row)]
            for r, row in enumerate(rows_of())
        ]
        batch = batch_of(rows)
        with torch.no_grad():
            hidden = net.hidden(to_inputs(batch, mesh.device, backend)).float().numpy()
        out.append([hidden[start:end] for start, _, end in batch.segments])
    return out


def larger_queries(mesh: Mesh, qk_norm: float | None) -> dict[str, float]:
    """Loss as initialized and with the weights of all queries times 16; root mean square of attention logits."""
    net = make_model(decoder_with(qk_norm=qk_norm), VOCABULARY, mesh, "fp32", "fp32", seed=7)
    seen: list[torch.Tensor] = []
    first = net.decoder.layers[0]
    for norm in (first.q_norm, first.k_norm):
        if norm is not None:
            norm.register_forward_hook(lambda module, given, made: seen.append(made))
    inputs = to_inputs(batch_of(rows_of()), mesh.device)
    with torch.no_grad():
        before = net(inputs)
        for layer in net.decoder.layers:
            layer.q.weight *= 16.0
        after = net(inputs)
    spread = 0.0
    if seen:
        real = [t for start, end in inputs.segments.bounds for t in range(start, end)]
        q, k = (part[real] for part in seen[:2])
        logits = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(q.shape[1] // k.shape[1], 1))
        spread = float((logits / q.shape[-1] ** 0.5).pow(2).mean().sqrt())
    return {"before": float(before.loss_sum), "after": float(after.loss_sum), "spread": spread}


def held(mesh: Mesh, zero: int) -> int:
    """Bytes held after one step of a 25 M model."""
    from configs.decoder import DecoderConfig

    big = MODEL.model_copy(update={"decoder": DecoderConfig(layers=6, width=512, heads=8, mlp_width=1536)})
    engine = make_engine(mesh, zero, "bf16", 1, {"projector": 0.01, "decoder": 0.01}, big, 4096)
    batch = micro_batches(rows_of("mixed")[:2], mesh.dp_rank, mesh.dp_size)[0]
    out = engine.forward(to_inputs(batch, mesh.device))
    engine.backward(micro_loss(out.loss_sum, batch.denominator, mesh.dp_size))
    engine.step()
    return held_bytes(engine)


def joined(results: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Whole tensors out of all ranks' {name: (axis, offset, slice)}."""
    out: dict[str, np.ndarray] = {}
    for name, (axis, _, values) in results[0].items():
        if axis is None:
            out[name] = values
            continue
        parts = sorted((result[name] for result in results), key=lambda part: part[1])
        out[name] = np.concatenate([part[2] for part in parts], axis)
    return out


def desert(mesh: Mesh) -> None:
    """Rank 0 joins a collective that rank 1 never does."""
    if mesh.rank == 0:
        torch.distributed.all_reduce(torch.zeros(1))
    else:
        import time

        time.sleep(60)


GRID = ViT(patch=4, image_size=16, width=32, depth=2, heads=4, mlp_width=64)
SQUARE = {"encoder": GRID, "resolution": SquareResolution(size=16)}
VIEWS: dict[str, dict[str, Any]] = {
    "tiles": {"resolution": TilesResolution(size=16, max_tiles=4)},
    "anyres": {"resolution": AnyresResolution(size=16, grids=((1, 2), (2, 1), (2, 2)))},
    "row_column": {"resolution": RowColumnResolution(size=16, longest=32)},
    "qformer": {
        "encoder": GRID.model_copy(update={"class_token": "keep"}),
        "resolution": SquareResolution(size=16),
        "projector": QFormerProjector(queries=3, width=24, layers=2, heads=3, mlp_width=32),
    },
    "resampler": SQUARE | {"projector": ResamplerProjector(queries=4, heads=4)},
    "perceiver": SQUARE | {"projector": PerceiverProjector(queries=3, layers=2, heads=4, kv_heads=2, head_size=8)},
    "expert": SQUARE
    | {
        "projector": GluProjector(hidden=48, ends=True),
        "decoder": MODEL.decoder.model_copy(update={"expert": True, "positions": "shared"}),
    },
}
"""Pictures in several views, or in as many tokens as there are queries; 16 pixels are two merged cells."""


def views(mesh: Mesh, kind: str, how: str = "packed", zero: int = 0, steps: int = 0) -> dict[str, Any]:
    """Loss sum and gradients of a model that sees pictures in views; or (`steps`) losses of some trained steps."""
    model = MODEL.model_copy(update=VIEWS[kind])
    geometry, length = geometry_of(model), 320

    def batch(rows: Any, denominator: float | None = None) -> Batch:
        return collate(rows, length, geometry, PAD, cnn=False, denominator=denominator)

    world = rows_of("mixed")
    if steps:
        labels = batch(world).denominator
        batches = [batch([row], labels) for row in world[mesh.dp_rank :: mesh.dp_size]]
        engine = make_engine(mesh, zero, "fp32", len(batches), model=model)
        losses = []
        for _ in range(steps):
            total = torch.zeros(1)
            for one in batches:
                out = engine.forward(to_inputs(one, mesh.device))
                engine.backward(micro_loss(out.loss_sum, one.denominator, mesh.dp_size))
                engine.step()
                total += out.loss_sum.detach()
            torch.distributed.all_reduce(total, group=mesh.dp_group)
            losses.append(float(total) / labels)
        return {"losses": losses}
    net = make_model(model, VOCABULARY, mesh, "fp32", "fp32", seed=7)
    total, gradients = 0.0, {}
    for rows in arranged(world, how):
        net.zero_grad()
        out = net(to_inputs(batch(rows), mesh.device))
        out.loss_sum.backward()
        total += float(out.loss_sum.detach())
        for p in net.parameters():
            if p.grad is not None:
                name = logical_of(p).name
                gradients[name] = gradients.get(name, 0.0) + p.grad.float().numpy()
    return {"loss": total, "gradients": gradients}
