"""What the pool's ranks run for tests of starts: a short training out of published parts."""

from pathlib import Path
from typing import Any

import torch

from pretrain.checkpoint.choose import find
from pretrain.checkpoint.reading import Checkpoint
from pretrain.decoder_weights import tensors_of as of_decoder
from pretrain.encoder_weights import tensors_of as of_encoder
from pretrain.mesh import Mesh
from pretrain.running import train
from tests.pretrain.training_cases import small_recipe


def started(mesh: Mesh, world: str, run: str, parts: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """Two steps that train the projector: names whose saved weights are not the published ones."""
    recipe: Any = small_recipe(world, **parts)
    train(recipe, run, mesh)
    if mesh.rank:
        return {}
    chosen = find(run)
    saved = Checkpoint(chosen.folder, chosen.frozen)
    wanted = dict(of_encoder(recipe.model.encoder)) | dict(of_decoder(recipe.model.decoder, vocabulary))
    wrong = [name for name, whole in wanted.items() if not torch.equal(saved.tensor(name), whole)]
    return {"wrong": wrong, "count": len(wanted), "names": saved.names(), "made": Path(run).is_dir()}
