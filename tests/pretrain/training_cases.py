"""What the pool's ranks run: whole trainings of the squares' model, and checkpoints carried between topologies."""

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pretrain.trainer
from configs.errors import RunError, UserError
from configs.model import ModelConfig
from configs.schema import RECIPE, TrainRecipe
from configs.training import CheckpointConfig, OptimConfig, ParallelConfig
from data_pipeline.stream.batch import NO_TARGET, Batch
from data_pipeline.stream.loader import Loader
from pretrain.checkpoint.choose import find
from pretrain.checkpoint.reading import Checkpoint, load_engine
from pretrain.commits import Commits
from pretrain.engine import KINDS, Engine
from pretrain.loss import StepCounts, micro_loss
from pretrain.mesh import Mesh
from pretrain.model.inputs import to_inputs
from pretrain.model.linear import logical_of
from pretrain.model.vlm import make_model
from pretrain.optim import make_optimizer, set_rates
from pretrain.running import train
from pretrain.stages import apply_stage, freeze_table
from pretrain.trainer import Trainer
from pretrain.zero_config import born
from tests.pretrain.squares import recipe_of
from tests.support.worlds import MODEL, VOCABULARY, micro_batches, rows_of

ALL = {"encoder": 0.01, "projector": 0.01, "decoder": 0.01}
ROWS = 4
OPTIM = OptimConfig(eps=1e-3)
"""A large eps: with 1e-8 Adam's first steps turn rounding noise in near-zero gradients into full updates."""


# ---- whole trainings ---------------------------------------------------------------------------------------------


def small_recipe(world: str, **parts: dict[str, Any]) -> TrainRecipe:
    """Six steps of the squares; `stage`, `parallel`, ... replace keys of that part."""
    tree = recipe_of(world, "vit").model_dump(mode="json")
    tree["data"]["packing"]["window_steps"] = 4  # step 3 is inside a window, step 6 in the next
    tree["stage"] |= {"steps": 6, "train": {"projector": 0.01, "decoder": 0.01}}
    for name, values in parts.items():
        tree[name] |= values
    recipe = RECIPE.validate_python(tree)
    assert isinstance(recipe, TrainRecipe)
    return recipe


def trained(
    mesh: Mesh,
    world: str,
    run: str,
    parts: dict[str, Any],
    until: int | None = None,
    signal_at: int | None = None,
) -> dict[str, Any]:
    """{did: steps begun, refused, code: the exit code}. The last rank alone gets SIGTERM in step `signal_at`."""
    steps: list[int] = []

    def watched(optimizer: Any, scale: float) -> dict[str, float]:
        steps.append(len(steps))
        if len(steps) == signal_at and mesh.rank == mesh.world - 1:
            signal.raise_signal(signal.SIGTERM)
        return set_rates(optimizer, scale)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain.trainer, "set_rates", watched)
        try:
            did = train(small_recipe(world, **parts), run, mesh, until)
        except (UserError, RunError) as error:
            return {"did": len(steps), "refused": str(error), "code": getattr(error, "exit_code", None)}
    return {"did": len(steps) if did else 0, "refused": None, "code": None}


def barren(mesh: Mesh, world: str, run: str) -> int:
    """Steps begun where the second one has no label left: all its samples failed."""
    whole = Loader.step

    def step(self: Loader, number: int) -> list[Batch]:
        batches = whole(self, number)
        if number != 1:
            return batches
        blank = [np.full_like(batch.targets, NO_TARGET) for batch in batches]
        return [
            replace(batch, targets=targets, weights=np.zeros_like(batch.weights), denominator=0.0)
            for batch, targets in zip(batches, blank, strict=True)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "step", step)
        result = trained(mesh, world, run, {"parallel": {"zero": 0}, "optim": {"weight_decay": 0.0}})
    assert result["refused"] is None, result["refused"]
    return int(result["did"])


def interrupted(mesh: Mesh, world: str, folder: str, parallel: dict[str, Any]) -> None:
    """`straight`: six steps at once, one checkpoint. `resumed`: three, and a fresh trainer for the other three."""
    for run, until in (("straight", None), ("resumed", 3), ("resumed", None)):
        recipe = small_recipe(world, parallel=parallel, checkpoint={"every": 6})
        assert train(recipe, f"{folder}/{run}", mesh, until)


def started(mesh: Mesh, world: str, run: str, source: str, zero: int, precision: str) -> dict[str, Any]:
    """A trainer with `start_from`, before its first step: what it took from there."""
    parts: dict[str, Any] = {"stage": {"start_from": source}, "parallel": {"zero": zero, "precision": precision}}
    trainer = Trainer(small_recipe(world, **parts), Path(run), mesh)
    chosen = find(source)
    found = Checkpoint(chosen.folder, chosen.frozen)
    engine = trainer.engine
    differing = [
        logical_of(p).name
        for p in engine.module.parameters()
        if not torch.equal(master_of(engine, p), found.tensor(logical_of(p).name).flatten())
    ]
    moments = [float(state["exp_avg"].abs().max()) for state in engine.base_optimizer.state.values()]
    trainer.close()
    return {
        "step": trainer.step,
        "updates": engine.optimizer_steps(),
        "moments": max(moments, default=0.0),
        "differing": differing,
    }


# ---- engines without a dataset -------------------------------------------------------------------------------------


def make_engine(
    mesh: Mesh,
    zero: int,
    precision: str = "fp32",
    train: dict[str, float] = ALL,
    seed: int = 7,
    model: ModelConfig = MODEL,
    optim: OptimConfig = OPTIM,
) -> tuple[Engine, list[Batch]]:
    """An engine over rows of the numerics tests, and this rank's micro-steps of them."""
    batches = micro_batches(rows_of("mixed")[:ROWS], mesh.dp_rank, mesh.dp_size)
    parallel = ParallelConfig(zero=zero, precision=precision, tp=mesh.tp_size)
    with born(parallel, mesh):
        net = make_model(model, VOCABULARY, mesh, precision, "fp32", seed)
    table = apply_stage(net, train)
    return Engine(net, make_optimizer(table, optim), parallel, mesh, len(batches), clip=1.0), batches


def learn(engine: Engine, batches: Sequence[Batch], scale: float = 1.0, denominator: float | None = None) -> None:
    """One optimizer step. `denominator` 0: a step without a single label."""
    set_rates(engine.optimizer, scale)
    for batch in batches:
        out = engine.forward(to_inputs(batch, engine.mesh.device))
        wanted = batch.denominator if denominator is None else denominator
        engine.backward(micro_loss(out.loss_sum, wanted, engine.mesh.dp_size))
        engine.step()


def loss_of(engine: Engine, batches: Sequence[Batch]) -> float:
    total = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for batch in batches:
            out = engine.forward(to_inputs(batch, engine.mesh.device))
            total += torch.tensor([float(out.loss_sum), float(out.weight_sum)], dtype=torch.float64)
    if engine.mesh.dp_size > 1:
        torch.distributed.all_reduce(total, group=engine.mesh.dp_group)
    return float(total[0] / total[1])


def commits_of(run: str, mesh: Mesh, keep_last: int = 9) -> Commits:
    Path(run).mkdir(exist_ok=True)
    return Commits(CheckpointConfig(keep_last=keep_last), Path(run), mesh, print)


def save(commits: Commits, step: int, engine: Engine) -> None:
    commits.order(step, engine, {"optimizer_steps": engine.optimizer_steps()})
    commits.before_update()
    commits.settle()


def master_of(engine: Engine, parameter: torch.nn.Parameter) -> torch.Tensor:
    """This rank's fp32 weights of a parameter, flat."""
    held = engine.wanted(parameter, KINDS[:1])
    return held[0].views["master"].detach().float().clone() if held else torch.empty(0)


def written(
    mesh: Mesh, run: str, zero: int, precision: str = "fp32", train: dict[str, float] = ALL, keep_last: int = 9
) -> list[float]:
    """Three steps with a checkpoint after each. Losses of the weights before and after the third."""
    engine, batches = make_engine(mesh, zero, precision, train)
    before, commits = 0.0, commits_of(run, mesh, keep_last)
    for step in (1, 2, 3):
        before = loss_of(engine, batches) if step == 3 else before
        learn(engine, batches)
        save(commits, step, engine)
    return [before, loss_of(engine, batches)]


def carried(
    mesh: Mesh,
    source: str,
    run: str,
    zero: int,
    precision: str = "fp32",
    train: dict[str, float] = ALL,
    frozen: str | None = None,
) -> list[float]:
    """A checkpoint in an engine of other initial weights, written again; losses before and after one more step."""
    engine, batches = make_engine(mesh, zero, precision, train, seed=8)
    load_engine(Checkpoint(source, frozen), engine, mesh, moments=True)
    save(commits_of(run, mesh), 9, engine)
    before = loss_of(engine, batches)
    learn(engine, batches)
    return [before, loss_of(engine, batches)]


def refused(mesh: Mesh, source: str, decoder: dict[str, Any]) -> str | None:
    """The sentence with which another model refuses a checkpoint."""
    model = MODEL.model_copy(update={"decoder": MODEL.decoder.model_copy(update=decoder)})
    engine, _ = make_engine(mesh, zero=0, model=model)
    try:
        load_engine(Checkpoint(source), engine, mesh, moments=True)
    except UserError as error:
        return str(error)
    return None


# ---- stages and sums -----------------------------------------------------------------------------------------------


def moved(
    mesh: Mesh,
    zero: int,
    train: dict[str, float],
    scale: float = 1.0,
    weight_decay: float = 0.0,
    denominator: float | None = None,
) -> dict[str, list[float]]:
    """One step at TP 1: name -> [largest change of this rank's elements, their largest relative change]."""
    engine, batches = make_engine(mesh, zero, train=train, optim=OptimConfig(eps=1e-12, weight_decay=weight_decay))
    before = {p: master_of(engine, p) for p in engine.module.parameters()}
    learn(engine, batches, scale, denominator)
    found = {}
    for parameter, old in before.items():
        change = (master_of(engine, parameter) - old).abs()
        found[logical_of(parameter).name] = [float(change.max()), float((change / old.abs()).nan_to_num(0.0).max())]
    return found


def tables(mesh: Mesh, stages: dict[str, dict[str, float]]) -> dict[str, Any]:
    """For each stage: the freeze table, names that need a gradient, and the optimizer's groups."""
    net = make_model(MODEL, VOCABULARY, mesh, "fp32", "fp32", seed=7)
    names = {id(p): logical_of(p).name for p in net.parameters()}
    found = {}
    for stage, patterns in stages.items():
        rows = apply_stage(net, patterns)
        groups = make_optimizer(rows, OptimConfig(weight_decay=0.1)).param_groups
        found[stage] = {
            "table": freeze_table(rows, {"cnn": 11}),
            "trained": sorted(names[id(p)] for p in net.parameters() if p.requires_grad),
            "groups": [
                (g["name"], g["peak"], g["weight_decay"], sorted(names[id(p)] for p in g["params"])) for g in groups
            ],
        }
    return found


def mistaken(mesh: Mesh, stages: Sequence[dict[str, float]]) -> list[str]:
    """The sentence that refuses each stage."""
    net = make_model(MODEL, VOCABULARY, mesh, "fp32", "fp32", seed=7)
    said = []
    for patterns in stages:
        with pytest.raises(UserError) as caught:
            apply_stage(net, patterns, {"cnn": 11})
        said.append(str(caught.value))
    return said


def summed(mesh: Mesh) -> tuple[dict[str, float], list[float]]:
    """Counts of eight rows in which every label's loss is 2; each rank adds its number as an extra."""
    counts = StepCounts.empty()
    for batch in micro_batches(rows_of("mixed"), mesh.dp_rank, mesh.dp_size):
        weight = torch.tensor(float(np.sum(batch.weights)))
        counts.add(batch, 2 * weight, weight, flops=1000.0 * len(batch.segments))
    return counts.reduced(mesh, (1.0, float(mesh.rank)))
