"""A vision tower or a language model in a folder of its own: what it is in our settings, and its tensors under our names."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from configs.base import Config as Settings
from configs.encoders import ViT
from configs.errors import UserError
from data_pipeline.parts.cache import find
from pretrain.model.hf.family import Config, computed
from pretrain.model.hf.published import Published
from pretrain.model.hf.rules import Rule
from pretrain.model.hf.towers import SIGLIP, clip, vit_of

TOWERS = ("clip", "clip_vision_model", "siglip", "siglip_vision_model")
"""By `model_type` of config.json: both towers together, or the vision tower alone."""
OTHER_TOWER = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias")
"""What CLIP and SigLIP have besides: the text's tower, and what joins both."""
TEXT_SPELLINGS = (
    ("model.language_model.", "text."),
    ("language_model.model.", "text."),
    ("language_model.lm_head.", "head."),
    ("model.decoder.", "text."),
    ("decoder.", "text."),
    ("model.", "text."),
    ("lm_head.", "head."),
)


class Source(Protocol):
    """Where tensors come from: a folder of safetensors (Published), a GGUF file (Gguf)."""

    folder: Path
    config: dict[str, Any]

    @property
    def names(self) -> list[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def tensor(self, name: str) -> Tensor: ...


def open_tower(weights: str) -> Published:
    """The folder of a `model.encoder.weights` setting.

    Raises:
        UserError: it is not here, or holds no vision tower that is known.
    """
    published = Published(find(weights, "model.encoder.weights"))
    kind = published.config.get("model_type")
    if kind not in TOWERS:
        raise UserError(
            f"model.encoder.weights {weights} has model_type {kind!r}: a vision tower is one of {', '.join(TOWERS)}"
        )
    return published


def tower_of(config: Config, feature_layer: int) -> ViT:
    """The encoder that the config.json of a vision tower (or of CLIP, SigLIP as a whole) is."""
    vision = config.get("vision_config") or config
    if str(config["model_type"]).startswith("clip"):
        return clip(vision, feature_layer)
    return vit_of(vision, SIGLIP, feature_layer=feature_layer)


def tower_name(name: str) -> str | None:
    """The short spelling of a tensor of a vision tower; None: it is of another part."""
    if name.startswith(OTHER_TOWER) or computed(name):
        return None
    return "vision." + name.removeprefix("vision_model.")


def text_name(name: str) -> str | None:
    """The short spelling of a tensor of a language model, with or without its head; None: a table that is computed."""
    if computed(name):
        return None
    for prefix, short in TEXT_SPELLINGS:
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return f"text.{name}"


def require_alike(key: str, ours: Settings, theirs: Settings, free: Sequence[str], where: str) -> None:
    """Raises UserError where a setting of the recipe is not the published model's; `free` ones may differ."""
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in type(ours).model_fields if name not in free}
    wrong = [(name, mine, its) for name, (mine, its) in pairs.items() if mine != its]
    if wrong:
        said = ", ".join(f"{name} {_shown(mine)} (the file has {_shown(its)})" for name, mine, its in wrong[:4])
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UserError(
            f"{key} does not describe {where}: {said}{more}; set {key}.{wrong[0][0]}: {_shown(wrong[0][2])}"
        )


def _shown(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else "null" if value is None else value


def hold(
    source: Source,
    where: str,
    rules: Sequence[Rule],
    short: Callable[[str], str | None],
    behind: Callable[[str], bool] = lambda name: False,
) -> list[tuple[Rule, str]]:
    """Each rule with the published name that it takes its tensor from; nothing is read yet.

    Args:
        short: the short spelling of a published name, None where it is of another part.
        behind: whether a short name is of a layer that is not run.
    Raises:
        UserError: a tensor is missing, one is left over, or one has another shape.
    """
    names = {known: name for name in source.names if (known := short(name)) is not None}
    pairs = []
    for rule in rules:
        name = names.get(rule.theirs)
        if name is None:
            raise UserError(f"{where} lacks {rule.theirs} ({rule.ours} here): fetch it again, or correct config.json")
        shape = source.shape(name)
        if shape != rule.published:
            raise UserError(
                f"{where} has {name} of shape {shape}, its config.json says {rule.published}: they do not belong together"
            )
        pairs.append((rule, name))
    used = {rule.theirs for rule in rules} | {
        "head.weight"
    }  # what a tied head is saved as a second time has nothing new
    extra = [name for known, name in names.items() if known not in used and not behind(known)]
    if extra:
        raise UserError(
            f"{where} has {extra[0]} and {len(extra) - 1} more tensors that such a model does not: it is another"
        )
    return pairs
