"""A published vision tower's weights into an encoder's parameters. Sources: CLIP or SigLIP, whole or the tower alone."""

from collections.abc import Iterator

from torch import Tensor

from configs.encoders import ViT
from pretrain.engine import Engine
from pretrain.mesh import Mesh
from pretrain.model.hf.parts import hold, open_tower, require_alike, tower_name, tower_of
from pretrain.model.hf.towers import behind, clip_rules
from pretrain.part_weights import fill_part

FREE = ("weights", "feature_layer", "positions")
"""Settings that say what is done with the features, not what the tower is."""


def tensors_of(config: ViT) -> Iterator[tuple[str, Tensor]]:
    """(logical name, whole tensor) of every tensor of `config.weights`, one at a time.

    Raises:
        UserError: it is of another encoder than the recipe says, or lacks or adds a tensor.
    """
    assert config.weights is not None
    source = open_tower(config.weights)
    theirs = tower_of(source.config, config.feature_layer)
    kept = config.class_token if theirs.class_token != "none" and config.class_token != "none" else theirs.class_token
    theirs = theirs.model_copy(update={"class_token": kept})
    require_alike("model.encoder", config, theirs, FREE, config.weights)
    pairs = hold(source, config.weights, clip_rules(config), tower_name, lambda name: behind(config, name))
    for rule, name in pairs:
        yield rule.ours, rule.take(source.tensor(name)).float()


def fill_encoder(config: ViT, engine: Engine, mesh: Mesh) -> int:
    """Fill an engine's encoder of any topology. Returns the number of tensors.

    Raises:
        UserError: see `tensors_of`.
    """
    assert config.weights is not None
    return fill_part("encoder", tensors_of(config), config.weights, engine, mesh)
