"""What the pool's ranks run: real engines measured, beside what cluster/cost says of them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cluster.cost.activations import Numbers, activations
from cluster.cost.estimate import Estimator
from cluster.cost.gathers import gathers
from cluster.cost.load import rows_of
from cluster.cost.parts import Model, make_model
from cluster.cost.sizes import cache_bytes
from cluster.cost.states import states
from cluster.cost.traffic import Message, control, data_parallel, group_sizes, tensor_parallel, wire_bytes
from configs.encoders import Cnn
from configs.model import ModelConfig
from configs.site import load_site
from configs.training import ParallelConfig
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.collate import collate
from data_pipeline.stream.geometry import geometry_of
from pretrain.engine import Engine
from pretrain.loads import load_of
from pretrain.loss import micro_loss
from pretrain.mesh import Mesh
from pretrain.model import vlm
from pretrain.model.cache import KeyValueCache
from pretrain.model.inputs import to_inputs
from pretrain.model.linear import logical_of
from pretrain.optim import make_optimizer, set_rates
from pretrain.stages import apply_stage
from pretrain.trainer import Trainer
from pretrain.zero_config import born
from tests.pretrain.training_cases import OPTIM, make_engine, small_recipe
from tests.support.counting import Collectives, SavedTensors, state_bytes
from tests.support.worlds import MODEL, PAD, VOCABULARY, sample


def names(mesh: Mesh, configs: list[dict[str, Any]], features_only: bool = False) -> list[list[Any]]:
    """For each model: [real, listed] (name, shape, axis) of every parameter, in order."""
    found = []
    for tree in configs:
        config = ModelConfig.model_validate(tree)
        net = vlm.make_model(config, VOCABULARY, mesh, "fp32", "fp32", 0, features_only)
        listed = make_model(config, VOCABULARY, mesh.tp_size, {"decoder": 1.0}, features_only)
        real = [(logical_of(p).name, logical_of(p).shape, logical_of(p).axis, tuple(p.shape)) for p in net.parameters()]
        mine = [(p.weight.name, p.weight.shape, p.weight.axis, p.weight.local(mesh.tp_size)) for p in listed.weights]
        sizes = [(name, shape, axis, _product(local)) for name, shape, axis, local in real]
        frozen = sum(p.numel() for part in net.frozen_cnn for p in part.parameters())
        found.append([sizes, mine, frozen])
    return found


def _product(shape: tuple[int, ...]) -> int:
    out = 1
    for size in shape:
        out *= size
    return out


def measured(mesh: Mesh, zero: int, precision: str, train: dict[str, float], changes: dict[str, Any]) -> dict[str, Any]:
    """Two steps of an engine: [measured, estimated] of states, activations and traffic."""
    config = MODEL.model_copy(update={"decoder": MODEL.decoder.model_copy(update=changes)})
    engine, batches = make_engine(mesh, zero, precision, train, model=config)
    return compared(mesh, engine, batches, config, zero, precision, train)


ALL = {"encoder": 0.01, "projector": 0.01, "decoder": 0.01}
PART = {"projector": 0.01, "decoder.layers[1:]": 0.01}


def stage_of(config: ModelConfig, part: bool) -> dict[str, float]:
    """Everything trained, or a frozen encoder with half of the decoder. A CNN is always frozen."""
    if part:
        return PART
    return {name: rate for name, rate in ALL.items() if name != "encoder" or not isinstance(config.encoder, Cnn)}


def of_family(mesh: Mesh, tree: dict[str, Any], zero: int, precision: str, part: bool) -> dict[str, Any]:
    """The same of any tiny composition, on pictures of its own resolution."""
    config = ModelConfig.model_validate(tree)
    batches, train = family_batches(mesh, config), stage_of(config, part)
    parallel = ParallelConfig(zero=zero, precision=precision, tp=mesh.tp_size)  # type: ignore[arg-type]
    with born(parallel, mesh):
        net = vlm.make_model(config, VOCABULARY, mesh, precision, "fp32", 7)
    engine = Engine(net, make_optimizer(apply_stage(net, train), OPTIM), parallel, mesh, len(batches), clip=1.0)
    return compared(mesh, engine, batches, config, zero, precision, train)


def family_batches(mesh: Mesh, config: ModelConfig) -> list[Batch]:
    """Two micro-steps of this rank: a wide picture beside text, two pictures and text alone; no picture where DP is above 1."""
    geometry, cnn = geometry_of(config), isinstance(config.encoder, Cnn)
    rows = [
        [sample(1, ((150, 61),)), sample(2, (), 14)],
        [sample(3, ((47, 140), (64, 64))), sample(4, (), 5)],
        [sample(5, ((64, 64),), 20)],
        [sample(6, (), 30)],
    ]
    length = max(sum(one.laid_out(geometry).tokens for one in row) for row in rows) + 3
    mine = rows[mesh.dp_rank :: mesh.dp_size][:2]
    return [collate([row], length, geometry, PAD, cnn=cnn, denominator=20.0) for row in mine]


def cached(mesh: Mesh, configs: list[dict[str, Any]]) -> list[list[int]]:
    """For each model: [real, said] bytes of keys and values of a row in a cache of as many positions."""
    found = []
    for tree in configs:
        config = ModelConfig.model_validate(tree)
        net = vlm.make_model(config, VOCABULARY, mesh, "fp32", "fp32", 0)
        inputs = to_inputs(family_batches(mesh, config)[0], mesh.device)
        cache = KeyValueCache(1, len(inputs.ids))
        with torch.no_grad():
            net.step(net.embed(inputs, net.encode(inputs)), inputs.positions, cache, net.routes(inputs))
        held = [*cache.keys.values(), *cache.values.values()]
        said = cache_bytes(config.decoder, mesh.tp_size, 4) * len(inputs.ids)
        found.append([sum(t.untyped_storage().nbytes() for t in held), said])
    return found


def compared(
    mesh: Mesh,
    engine: Engine,
    batches: list[Batch],
    config: ModelConfig,
    zero: int,
    precision: str,
    train: dict[str, float],
) -> dict[str, Any]:
    """Two steps of an engine: [measured, estimated] of states, activations and traffic."""
    model = make_model(config, VOCABULARY, mesh.tp_size, train)
    numbers = Numbers(weight=2 if precision == "bf16" else 4, math=4, attention=4, fused_norm=False)
    held: list[dict[str, int]] = []
    kept: list[list[float]] = []
    gathered: list[int] = []
    sent: Counter[str] = Counter()
    for _step in range(2):
        set_rates(engine.optimizer, 1.0)
        held, kept, sent = [], [], Counter()
        for batch in batches:
            saved, inputs = SavedTensors(engine.module), to_inputs(batch, mesh.device)
            with Collectives(mesh) as counted:
                with saved.watching():
                    out = engine.forward(inputs)
                if zero == 3:
                    gathered.append(_whole(engine.module))
                engine.backward(micro_loss(out.loss_sum, batch.denominator, mesh.dp_size))
                held.append(state_bytes(engine))
                engine.step()
            sent.update({f"{op} {group}": size for (op, group), size in counted.sizes.items() if group != "one"})
            kept.append([saved.bytes, activations(model, load_of(batch, config), numbers).total])
        held.append(state_bytes(engine))
    wanted = states(
        model.weights, zero, mesh.dp_size, mesh.tp_size, numbers.weight, rank=mesh.dp_rank, micro_steps=len(batches)
    )
    whole = gathers(model, mesh.dp_size) if zero == 3 else None
    return {
        "states": [[max(h[kind] for h in held), getattr(wanted, kind)] for kind in held[0]],
        "activations": kept,
        "gathered": [gathered[-1], whole.between * numbers.weight] if whole else [0, 0],
        "sent": [dict(sent), _totals(messages(model, batches, config, zero, mesh, numbers))],
    }


def messages(
    model: Model, batches: list[Batch], config: ModelConfig, zero: int, mesh: Mesh, numbers: Numbers
) -> list[Message]:
    """Every collective of one optimizer step of an engine (no loader, no trainer)."""
    made = [m for batch in batches for m in tensor_parallel(model, load_of(batch, config), numbers)]
    whole = gathers(model, mesh.dp_size) if zero == 3 else None
    made += data_parallel(model, zero, mesh.dp_size, len(batches), numbers.weight, whole)
    groups = len(group_sizes(model.weights, mesh.dp_size, mesh.tp_size))
    return made + control(zero, mesh.tp_size, mesh.dp_size, groups, numbers.weight)


def whole_step(mesh: Mesh, world: str, run: str, parts: dict[str, Any]) -> dict[str, list[float]]:
    """Bytes that this rank sends in a trainer's third step, batches and counts with them: [counted, estimated] by group."""
    recipe = small_recipe(world, **parts)
    trainer = Trainer(recipe, Path(run), mesh)
    seen: list[Batch] = []
    whole = trainer.loader.step

    def step(number: int) -> list[Batch]:
        seen[:] = whole(number)
        return list(seen)

    trainer.loader.step = step  # type: ignore[method-assign]
    for _ in range(2):
        trainer._train_step()
    with Collectives(mesh) as counted:
        trainer._train_step()
    trainer.close()
    rows = rows_of([load_of(b, recipe.model).scaled(1 / recipe.parallel.rows_per_rank) for b in seen], "batches")
    vocabulary = trainer.loader.chat.vocab_size
    estimator = Estimator(recipe, load_site("laptop").hardware, vocabulary, rows, "fp32", "fp32")
    found = estimator.run(replace(estimator.setting, ranks=mesh.world))
    sizes = {"tp": mesh.tp_size, "dp": mesh.dp_size, "world": mesh.world}
    table: dict[str, list[float]] = {}
    for (operation, group), size in counted.sizes.items():
        if group != "one":
            group = "world" if sizes[group] == mesh.world and group != "world" else group  # the same ranks, one name
            table.setdefault(group, [0.0, 0.0])[0] += wire_bytes(operation, size, sizes[group])  # type: ignore[arg-type]
    for m in found.messages:
        group = "world" if sizes[m.group] == mesh.world else m.group
        table.setdefault(group, [0.0, 0.0])[1] += wire_bytes(m.operation, m.payload, sizes[m.group])
    return table


def _totals(made: list[Message]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for message in made:
        total[f"{message.operation} {message.group}"] += int(message.payload)
    return dict(total)


def _whole(net: Any) -> int:
    return sum(p.numel() * p.element_size() for p in net.parameters() if p.ds_status.name == "AVAILABLE")
