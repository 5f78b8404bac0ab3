"""What a training recipe needs, checked without torch: bad input is refused before any rank starts."""

import os
from collections.abc import Sequence
from pathlib import Path

from cluster.gather import gather
from cluster.place import find_node, find_place, world_of
from configs.encoders import Cnn, ViT
from configs.errors import UserError
from configs.load import load_recipe
from configs.schema import TrainRecipe
from data_pipeline.manifest import read_manifest
from data_pipeline.parts.cache import require_here
from data_pipeline.storage import exists, join
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.geometry import geometry_of
from pretrain.run_folder import check_run_folder, steps_of


def load_train(name: str, overrides: Sequence[str]) -> TrainRecipe:
    """A training recipe by name or path.

    Raises:
        UserError: it is none, or has errors.
    """
    recipe = load_recipe(name, overrides)
    if not isinstance(recipe, TrainRecipe):
        raise UserError(f"{name} is a build recipe: use `looksay data build {name}`, or give a recipe with kind: train")
    return recipe


def check_data(recipe: TrainRecipe) -> None:
    """Every dataset is whole enough to open, and the tokenizer has the template's marks.

    Raises:
        UserError: the first thing that is missing.
    """
    folders = [source.path for source in recipe.data.sources]
    if recipe.evaluate.source is not None:
        folders.append(recipe.evaluate.source)
    for folder in folders:
        for entry in read_manifest(folder).shards:
            for ending in ("tar", "index.parquet"):
                path = join(folder, f"{entry.name}.{ending}")
                if not exists(path):
                    raise UserError(
                        f"{path} is missing: the dataset is damaged; `looksay data verify {folder}` says what else is"
                    )
    Chat(recipe.data.tokenizer, recipe.data.template).require_marks(geometry_of(recipe.model))


def check_training(recipe: TrainRecipe, run: str) -> None:
    """Everything that `train` can know to be impossible before it starts. What one node of a job refuses, all do.

    Raises:
        UserError: parallel sizes, data, start_from or the run folder do not fit.
    """
    try:
        _check_training(recipe, run)
    except UserError as error:
        node = find_node(os.environ)
        if node is not None and node.nodes > 1:
            gather(Path(run) / "logs", node, str(error))
        raise


def _check_training(recipe: TrainRecipe, run: str) -> None:
    ranks = world_of(os.environ, recipe.parallel.ranks)
    if ranks % recipe.parallel.tp:
        fits = [n for n in range(1, ranks + 1) if ranks % n == 0]
        raise UserError(
            f"parallel.tp {recipe.parallel.tp} does not divide the {ranks} ranks of this job: use one of {fits}"
        )
    check_run_folder(Path(run), recipe)
    if recipe.stage.start_from is not None:
        check_run(recipe.stage.start_from, "stage.start_from ")
    check_parts(recipe, begun=bool(steps_of(Path(run))))
    check_data(recipe)


def check_parts(recipe: TrainRecipe, begun: bool) -> None:
    """Weights that the recipe names and will read are here: no rank opens a connection.

    Args:
        begun: the run has a checkpoint, from which it goes on.

    Raises:
        UserError: one is not; names the command that brings it.
    """
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    starts = not begun and recipe.stage.start_from is None
    if isinstance(encoder, Cnn) and encoder.weights is not None:  # frozen, so no checkpoint has it
        require_here(encoder.weights, "model.encoder.weights")
    if starts and isinstance(encoder, ViT) and encoder.weights is not None:
        require_here(encoder.weights, "model.encoder.weights")
    if starts and decoder.weights is not None:
        require_here(decoder.weights, "model.decoder.weights")


def check_run(spec: str, key: str = "") -> None:
    """RUN or RUN@STEP is a run with such a checkpoint.

    Raises:
        UserError: it is not. `key` says where the name was given.
    """
    name, _, step = spec.partition("@")
    if not (Path(name) / "config.yaml").is_file():
        raise UserError(f"{key}{name} is not a run (it has no config.yaml): give the folder of a `looksay train`")
    found = steps_of(Path(name))
    if not found:
        raise UserError(f"{key}{name} has no complete checkpoint: let `looksay train` reach its first one")
    if step and (not step.isdigit() or int(step) not in found):
        raise UserError(f"{key}{name} has no checkpoint of step {step}: use one of {found}")


def first_here() -> bool:
    """This process is nobody's rank, or the first one: what is for people is printed once."""
    place, node = find_place(os.environ), find_node(os.environ)
    return (place is None or place.rank == 0) and (node is None or node.node == 0)
