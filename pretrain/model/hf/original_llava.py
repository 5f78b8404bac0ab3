"""LLaVA as its own code publishes it: v1 (arXiv 2304.08485), v1.5 (arXiv 2310.03744), and Yi-VL (arXiv 2403.04652).

Of these transformers can compute v1.5 only, under other names (llava.py): v1 has one linear layer between CLIP and Llama,
Yi-VL a norm behind each layer of its MLP. They leave in the layout they came in.

The tower's own configuration lies in the folder that `mm_vision_tower` names, or in `vision_tower` (published.py); for
those that these models were published with it is known.
"""

import re
from dataclasses import replace

from configs.encoders import ViT
from configs.errors import UserError
from configs.model import ModelConfig
from configs.projectors import LinearProjector, MlpProjector
from configs.resolutions import SquareResolution
from pretrain.model.hf.family import Config, Family, computed, only
from pretrain.model.hf.rules import Rule, layer_norm, linear
from pretrain.model.hf.text import decoder_of, decoder_rules
from pretrain.model.hf.towers import behind, clip, clip_rules

CLIP_L: Config = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
CLIP_H: Config = CLIP_L | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "hidden_act": "gelu",
}
TOWERS: dict[str, Config] = {
    "clip-vit-large-patch14-336": CLIP_L | {"image_size": 336},
    "clip-vit-large-patch14": CLIP_L,
    "clip-vit-h-14-laion2b-s32b-b79k": CLIP_H,
}
"""By the last part of `mm_vision_tower`, in small letters. Yi-VL's begins like LAION's and ends in the pictures' size."""
SPELLINGS = (
    ("model.vision_tower.vision_tower.vision_model.", "vision."),
    ("model.mm_projector.", "projector."),
    ("lm_head.", "head."),
    ("model.", "text."),
)
PUBLISHED = {short: prefix for prefix, short in SPELLINGS}


def tower_of(config: Config) -> Config:
    """The tower's configuration.

    Raises:
        UserError: it lies nowhere and the tower's name is none that is known.
    """
    if config.get("vision_config"):
        found: Config = config["vision_config"]
        return found
    named = str(config["mm_vision_tower"])
    last = named.rstrip("/").rpartition("/")[2].lower()
    if last in TOWERS:
        return TOWERS[last]
    for known, tower in TOWERS.items():
        sized = re.fullmatch(rf"{known}-yi-vl-.*-(\d+)", last)
        if sized:
            return tower | {"image_size": int(sized[1])}
    raise UserError(
        f"config.json has mm_vision_tower {named!r}, whose sizes are not known: put that tower's config.json into a folder "
        "`vision_tower` beside it"
    )


def model_of(config: Config) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    vision = tower_of(config)
    only(config, "model_type", "llava", "llava", "llava_llama")
    only(vision, "model_type", "clip_vision_model", "clip_vision_model")
    only(config, "mm_vision_select_feature", "patch", "patch")
    only(config, "image_aspect_ratio", "square", "square", "pad", None)
    encoder = clip(vision, config.get("mm_vision_select_layer", -2))
    only(config, "mm_hidden_size", encoder.width, encoder.width)
    return ModelConfig(
        encoder=encoder,
        resolution=SquareResolution(
            size=encoder.image_size, fit="pad" if config.get("image_aspect_ratio") == "pad" else "crop"
        ),
        projector=_projector(config.get("mm_projector_type") or "linear"),
        decoder=decoder_of(config, "llama"),
    )


def _projector(kind: str) -> LinearProjector | MlpProjector:
    if kind == "linear":
        return LinearProjector()
    found = re.fullmatch(r"mlp([23])x_gelu(_Norm)?", kind)
    if not found:
        raise UserError(
            f"config.json has mm_projector_type {kind!r}: linear, mlp2x_gelu and mlp2x_gelu_Norm can be imported"
        )
    return MlpProjector(depth=int(found[1]), norm_after=found[2] is not None)


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names in short spelling."""
    encoder, projector, width = model.encoder, model.projector, model.decoder.width
    assert isinstance(encoder, ViT)
    rules = clip_rules(encoder)
    if isinstance(projector, LinearProjector):
        # A layer by itself has no number.
        rules += linear("projector.layers.0", "projector", width, encoder.width)
    else:
        assert isinstance(projector, MlpProjector)
        step = 3 if projector.norm_after else 2
        for number in range(projector.depth):
            inputs = width if number else encoder.width
            rules += linear(f"projector.layers.{number}", f"projector.{step * number}", width, inputs)
            if projector.norm_after:
                rules += layer_norm(f"projector.norms.{number}", f"projector.{step * number + 1}", width)
    return [*rules, *decoder_rules(model.decoder)]


def left_aside(model: ModelConfig, name: str) -> bool:
    """What lies behind the feature layer, and tables that older code saved."""
    assert isinstance(model.encoder, ViT)
    return behind(model.encoder, name) or computed(name)


REMEDIES = {
    "vision.": "LLaVA's first files leave CLIP out: add the tensors of the tower that mm_vision_tower names, each under this prefix",
}
LLAVA = Family(model_of, rules_of, SPELLINGS, PUBLISHED, left_aside, REMEDIES, template="vicuna")
YI_VL = replace(LLAVA, template="yi_vl")


def family_of(config: Config) -> Family:
    """Yi-VL is told by the norms of its projector."""
    return YI_VL if str(config.get("mm_projector_type")).endswith("_Norm") else LLAVA
