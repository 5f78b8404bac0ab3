"""Published ResNets and ConvNeXts: what a folder's configuration is in our settings, and the names of its tensors."""

from typing import Any

from configs.encoders import ConvNext, ResNet
from configs.errors import UserError
from pretrain.model.hf.published import Published, read_json

HEADS = ("classifier.", "layernorm.")
"""The classifier, and ConvNeXt's norm behind its pooling: features go without."""


def cnn_of(published: Published, ours: ResNet | ConvNext) -> ResNet | ConvNext:
    """The encoder that a folder of `ResNetModel` or `ConvNextModel` (or their classifier) is.

    Args:
        ours: what the recipe says: of the same type, with the same pixel scales unless the folder has its own.
    Raises:
        UserError: it is another network, or a variant of it that is not computed here.
    """
    config, where, usual = published.config, ours.weights, type(ours)()
    if config.get("model_type") != ours.type:
        raise UserError(
            f"model.encoder.weights {where} has model_type {config.get('model_type')!r}: encoder.type {ours.type} takes "
            f"{ours.type!r}"
        )
    known: dict[str, Any] = {
        "depths": tuple(config.get("depths", usual.depths)),
        "widths": tuple(config.get("hidden_sizes", usual.widths)),
        "pixel_mean": ours.pixel_mean,
        "pixel_std": ours.pixel_std,
    }
    if (published.folder / "preprocessor_config.json").exists():
        pixels = read_json(published.folder, "preprocessor_config.json")
        for name, theirs in (("pixel_mean", "image_mean"), ("pixel_std", "image_std")):
            if theirs in pixels:
                known[name] = tuple(pixels[theirs])
    if isinstance(ours, ResNet):
        _require(config, where, hidden_act="relu", downsample_in_first_stage=False, downsample_in_bottleneck=False)
        block = config.get("layer_type", "bottleneck")
        return ResNet(**known, stem=config.get("embedding_size", 64), block=block)
    _require(config, where, hidden_act="gelu", patch_size=4)
    return ConvNext(**known, layer_scale=config.get("layer_scale_init_value", 1e-6) > 0)


def _require(config: dict[str, Any], where: str | None, **settings: Any) -> None:
    for name, value in settings.items():
        its = config.get(name, value)
        if its != value:
            raise UserError(f"model.encoder.weights {where} has {name} {its!r}: only {value!r} is computed here")


def short_name(name: str) -> str | None:
    """Our name of a published tensor; None: it is not part of the features."""
    short = name.removeprefix("resnet.").removeprefix("convnext.")
    return None if short.startswith(HEADS) or short.endswith("num_batches_tracked") else short
