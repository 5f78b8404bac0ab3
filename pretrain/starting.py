"""The start of a run on one rank: cached features, the model born under ZeRO, and where training is taken up."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from configs.encoders import Cnn, ViT
from configs.errors import RunError, UserError
from configs.schema import TrainRecipe
from data_pipeline.stream.read.dataset import Dataset
from pretrain.checkpoint import choose
from pretrain.checkpoint.pausing import pause_at
from pretrain.checkpoint.reading import Checkpoint, load_engine
from pretrain.commits import Commits
from pretrain.decoder_weights import fill_decoder
from pretrain.encoder_weights import fill_encoder
from pretrain.engine import Engine
from pretrain.features import FeatureCache
from pretrain.guard import Guard
from pretrain.mesh import Mesh
from pretrain.model.frozen import count_parameters
from pretrain.model.vlm import VisionLanguageModel, make_model
from pretrain.reading import GroupLoader
from pretrain.zero_config import born

Say = Callable[[str], None]


def make_features(recipe: TrainRecipe, mesh: Mesh, say: Say) -> FeatureCache | None:
    """The frozen CNN's features of all sources, computed where missing; None where pixels are trained on."""
    if not recipe.data.cache_features:
        return None
    if not isinstance(recipe.model.encoder, Cnn):
        raise UserError("data.cache_features is for a frozen CNN encoder: set it to false for this encoder")
    cache = FeatureCache(recipe.model, [Dataset(source.path) for source in recipe.data.sources])
    start = time.perf_counter()
    done = cache.fill(mesh)
    say(f"features: {'computed' if done else 'reused'} in {time.perf_counter() - start:.1f} s")
    return cache


def born_model(recipe: TrainRecipe, mesh: Mesh, vocabulary: int) -> VisionLanguageModel:
    """The recipe's model with its own initial weights, partitioned as it is made under ZeRO-3."""
    parallel = recipe.parallel
    with born(parallel, mesh):
        return make_model(
            recipe.model,
            vocabulary,
            mesh,
            parallel.precision,
            parallel.math,
            recipe.seed,
            features_only=recipe.data.cache_features,
        )


def frozen_outside(recipe: TrainRecipe) -> dict[str, int]:
    """Parts that are no parameters of the model (a frozen CNN) and their number of elements."""
    encoder = recipe.model.encoder
    return {"encoder": count_parameters(encoder)} if isinstance(encoder, Cnn) else {}


@dataclass(frozen=True)
class Taken:
    """Where training is taken up: finished steps, the lowest validation loss so far, validations since."""

    step: int = 0
    best: float | None = None
    worse: int = 0


def take_up(
    recipe: TrainRecipe,
    mesh: Mesh,
    engine: Engine,
    loader: GroupLoader,
    commits: Commits,
    guard: Guard,
    say: Say,
    resume_from: str | None,
    again: bool = False,
) -> Taken:
    """Resume from the run's newest checkpoint, else from `resume_from`, else take `start_from`'s weights,
    else those of published parts.

    Args:
        again: this start has trained already, and goes back: what its guard decided stays.
    """
    chosen = commits.newest()
    if chosen is None and resume_from is not None:
        chosen = choose.find(resume_from)
    if chosen is not None:
        found = Checkpoint(chosen.folder, chosen.frozen)
        state = found.state
        pause_at("load", mesh.rank)
        load_engine(found, engine, mesh, moments=bool(found.names("exp_avg")))
        if state["loader"] is not None:  # an imported model has weights and no past
            loader.load_state_dict(state["loader"])
        guard.load(state["guard"], keep_decisions=again)
        commits.take_ledger(found)
        found.close()
        say(f"resumed from {chosen.folder}: step {state['step']} of {recipe.stage.steps}")
        for name, value in circumstances(recipe, mesh).items():
            if state.get(name) != value:
                say(f"note: {name} differ from the checkpoint's ({state.get(name)} -> {value}): not bitwise from here")
        return Taken(int(state["step"]), state["best"], int(state["worse"]))
    if again:
        raise RunError("there is no checkpoint to go back to: lower checkpoint.every, or set optim.nonfinite to skip")
    if recipe.stage.start_from:
        start = choose.find(recipe.stage.start_from)
        found = Checkpoint(start.folder, start.frozen)
        load_engine(found, engine, mesh, moments=False)
        found.close()
        say(f"weights from {start.folder}")
        return Taken()
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    if isinstance(encoder, ViT) and encoder.weights:
        say(f"encoder: {fill_encoder(encoder, engine, mesh)} tensors from {encoder.weights}")
    if decoder.weights:
        count = fill_decoder(decoder, engine, mesh, loader.chat.vocab_size)
        say(f"decoder: {count} tensors from {decoder.weights}")
    return Taken()


def circumstances(recipe: TrainRecipe, mesh: Mesh) -> dict[str, Any]:
    """What bitwise resume depends on besides the state: topology, threads, kernels, versions."""
    return {
        "topology": {"dp": mesh.dp_size, "tp": mesh.tp_size, "zero": recipe.parallel.zero},
        "threads": torch.get_num_threads(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "versions": {"torch": torch.__version__},
    }
