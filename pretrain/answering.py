"""A run opened for answers: recipe, chat, and a whole copy of the weights on this process, outside ZeRO and TP."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.load import load_recipe
from configs.schema import TrainRecipe
from data_pipeline.sample import Message
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.layout import Geometry, geometry_of
from pretrain.checkpoint.choose import find
from pretrain.checkpoint.reading import Checkpoint, load_weights
from pretrain.generate import Prompt
from pretrain.mesh import Mesh
from pretrain.model.vlm import VisionLanguageModel, make_model
from pretrain.picture_file import read_picture


@dataclass(frozen=True)
class OpenRun:
    """What answering needs of RUN[@STEP]."""

    recipe: TrainRecipe
    chat: Chat
    geometry: Geometry
    model: VisionLanguageModel
    mesh: Mesh
    step: int


def open_run(spec: str, mesh: Mesh, features_only: bool = False) -> OpenRun:
    """Open RUN or RUN@STEP. `mesh` must have TP 1.

    Raises:
        UserError: no such run or checkpoint.
    """
    chosen = find(spec)
    run = Path(spec.partition("@")[0])
    recipe = load_recipe(str(run / "config.yaml"))
    chat = Chat(recipe.data.tokenizer, recipe.data.template)
    parallel = recipe.parallel
    model = make_model(
        recipe.model, chat.vocab_size, mesh, parallel.precision, parallel.math, recipe.seed, features_only
    )
    load_weights(Checkpoint(chosen.folder, chosen.frozen), model, mesh)
    model.eval()
    return OpenRun(recipe, chat, geometry_of(recipe.model), model, mesh, chosen.step)


def prompt_of(opened: OpenRun, images: Sequence[str], prompt: str | None) -> Prompt:
    """Pictures and a user's message (none: a caption is asked for) as a prompt."""
    pictures = [read_picture(path) for path in images]
    messages = None if prompt is None else [Message("user", prompt)]
    if messages and prompt is not None and prompt.count("<image>") > len(pictures):
        raise UserError(
            f"--prompt has {prompt.count('<image>')} <image> marks, but {len(pictures)} pictures were given: add --image"
        )
    if messages is None and not pictures:
        raise UserError("neither --image nor --prompt was given: give at least one")
    encoded = opened.chat.prompt(messages, len(pictures))
    return Prompt(encoded, [(p.shape[1], p.shape[0]) for p in pictures], images=pictures)
