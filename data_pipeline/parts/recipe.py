"""The remote parts that a recipe names: its tokenizer, and the weights of encoder and decoder."""

from pathlib import Path

from configs.encoders import Cnn, ViT
from configs.schema import TrainRecipe
from data_pipeline.parts.cache import Scope
from data_pipeline.parts.name import Part, part_of


def parts_of(recipe: TrainRecipe) -> list[tuple[Part, Scope]]:
    """What a machine with a network must bring before the recipe can run without one; what lies here as a path is not asked for."""
    named: list[tuple[str | None, Scope]] = [(recipe.data.tokenizer, "tokenizer")]
    if isinstance(recipe.model.encoder, Cnn | ViT):
        named.append((recipe.model.encoder.weights, "model"))
    named.append((recipe.model.decoder.weights, "model"))
    found: list[tuple[Part, Scope]] = []
    for text, scope in named:
        part = None if text is None or Path(text).exists() else part_of(text)
        if part is not None:
            found.append((part, scope))
    return found
