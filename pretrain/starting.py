"""The start of a run on one rank: cached features, the model born under ZeRO, and where training is taken up."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError
from configs.model import EfficientNetLite0
from configs.schema import TrainRecipe
from data_pipeline.stream.read.dataset import Dataset
from pretrain import checkpoint as checkpoints
from pretrain.engine import Engine, born
from pretrain.features import FeatureCache
from pretrain.mesh import Mesh
from pretrain.model.cnn import count_parameters
from pretrain.model.vlm import VisionLanguageModel, make_model
from pretrain.reading import GroupLoader
from pretrain.restore import Checkpoint, load_engine

Say = Callable[[str], None]


def make_features(recipe: TrainRecipe, mesh: Mesh, say: Say) -> FeatureCache | None:
    """The frozen CNN's features of all sources, computed where missing; None where pixels are trained on."""
    if not recipe.data.cache_features:
        return None
    if not isinstance(recipe.model.encoder, EfficientNetLite0):
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
    return {"encoder": count_parameters(encoder.feature)} if isinstance(encoder, EfficientNetLite0) else {}


def take_up(
    recipe: TrainRecipe, run: Path, mesh: Mesh, engine: Engine, loader: GroupLoader, say: Say, resume_from: str | None
) -> int:
    """Resume from the run's newest checkpoint, else from `resume_from`, else take `start_from`'s weights.

    Returns the number of optimizer steps that are behind.
    """
    newest = checkpoints.latest(run)
    if newest is None and resume_from is not None:
        newest = checkpoints.find(resume_from)
    if newest is not None:
        found = Checkpoint(newest)
        load_engine(found, engine, mesh, moments=True)
        loader.load_state_dict(found.state["loader"])
        say(f"resumed from {newest}: step {found.state['step']} of {recipe.stage.steps}")
        now = circumstances(recipe, mesh)
        for name, value in now.items():
            if found.state.get(name) != value:
                say(
                    f"note: {name} differ from the checkpoint's ({found.state.get(name)} -> {value}): not bitwise from here"
                )
        return int(found.state["step"])
    if recipe.stage.start_from:
        folder = checkpoints.find(recipe.stage.start_from)
        load_engine(Checkpoint(folder), engine, mesh, moments=False)
        say(f"weights from {folder}")
    return 0


def circumstances(recipe: TrainRecipe, mesh: Mesh) -> dict[str, Any]:
    """What bitwise resume depends on besides the state: topology, threads, kernels, versions."""
    return {
        "topology": {"dp": mesh.dp_size, "tp": mesh.tp_size, "zero": recipe.parallel.zero},
        "threads": torch.get_num_threads(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "versions": {"torch": torch.__version__},
    }
