"""A model configuration as modules: the table that says which function lists which part. A new part is one entry."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster.cost import cnn, decoder, grid_vit, projector, queries, vit
from cluster.cost.flow import Flow, flow_of
from cluster.cost.ops import Module, Repeated, Weight
from configs.encoders import Cnn
from configs.model import ModelConfig
from configs.patterns import matchers
from configs.resolutions import AnyresResolution

ENCODERS: dict[str, Any] = {
    "native_vit": vit,
    "vit": grid_vit,
    "efficientnet_lite0": cnn,
    "resnet": cnn,
    "convnext": cnn,
}
"""`type` of an encoder -> module with `modules(config, tp)` and `channels(config)`."""
PROJECTORS: dict[str, Callable[[Any, int, int], list[Module]]] = {
    "linear": projector.linear,
    "mlp": projector.mlp,
    "pixel_shuffle_mlp": projector.pixel_shuffle_mlp,
    "pixel_shuffle_linear": projector.pixel_shuffle_linear,
    "patch_merger": projector.patch_merger,
    "glu": projector.glu,
    "qformer": queries.qformer,
    "resampler": queries.resampler,
    "perceiver": queries.perceiver,
}
"""`type` of a projector -> its modules, of (config, channels of a cell, decoder's width)."""


@dataclass(frozen=True)
class Placed:
    """A weight and what the stage does with it. `pattern` is the one that trains it; none: frozen."""

    weight: Weight
    pattern: str | None

    @property
    def trained(self) -> bool:
        return self.pattern is not None


@dataclass(frozen=True)
class Model:
    """A model under one TP degree and stage. `modules` are in the order of the real model's parameters."""

    modules: tuple[Module, ...]
    train: tuple[tuple[str, float], ...]
    tp: int

    @cached_property
    def placed(self) -> list[tuple[tuple[Placed, ...], ...]]:
        """Of each module, the weights of each of its operations."""
        rates = dict(self.train)
        matching = matchers(rates)

        def place(weight: Weight) -> Placed:
            chosen = next((p for p, found in matching if found.match(weight.name)), None)
            return Placed(weight, chosen if chosen is not None and rates[chosen] > 0 else None)

        return [tuple(tuple(map(place, weights)) for weights in module.weights()) for module in self.modules]

    @cached_property
    def weights(self) -> list[Placed]:
        """Every parameter of the model, in the real model's order."""
        out: list[Placed] = []
        for module, held in zip(self.modules, self.placed, strict=True):
            for number in sorted(range(len(held)), key=lambda n: module.ops[n].at):
                out += held[number]
        return out

    @cached_property
    def flow(self) -> tuple[Flow, ...]:
        """Its modules with what gradients flow through."""
        trained = [tuple(any(p.trained for p in own) for own in held) for held in self.placed]
        return flow_of(self.modules, trained)


def make_model(
    config: ModelConfig, vocabulary: int, tp: int, train: dict[str, float], features_only: bool = False
) -> Model:
    """The modules of a model. `features_only`: the encoder's output is cached, so it is not there."""
    encoder, vocabulary = ENCODERS[config.encoder.type], config.decoder.vocab_size or vocabulary
    width = config.decoder.width
    made: list[Module] = [] if features_only else encoder.modules(config.encoder, tp)
    made += PROJECTORS[config.projector.type](config.projector, encoder.channels(config.encoder), width)
    if isinstance(config.resolution, AnyresResolution):
        made.append(Module("projector", "newlines", (Repeated("newline", width),)))
    made += decoder.beginning(config.decoder, vocabulary)
    made += decoder.layers(config.decoder, tp)
    made += decoder.ending(config.decoder, vocabulary)
    return Model(tuple(made), tuple(train.items()), tp)


def frozen_outside(config: ModelConfig) -> int:
    """Elements of a network that is no parameter of the model (a frozen CNN), as the freeze table counts them."""
    return cnn.parameters(config.encoder) if isinstance(config.encoder, Cnn) else 0


def parameters_by_module(model: Model, outside: int = 0) -> dict[str, dict[str, int]]:
    """Part -> {whole, trained} elements of the whole model, over all TP ranks."""
    table: dict[str, dict[str, int]] = {"encoder": {"whole": outside, "trained": 0}} if outside else {}
    for placed in model.weights:
        parts = placed.weight.name.split(".")
        name = "decoder.layers" if parts[1] == "layers" and parts[0] == "decoder" else parts[0]
        name = f"decoder.{parts[1]}" if parts[0] == "decoder" else name
        row = table.setdefault(name, {"whole": 0, "trained": 0})
        row["whole"] += placed.weight.size
        row["trained"] += placed.weight.size if placed.trained else 0
    return table
