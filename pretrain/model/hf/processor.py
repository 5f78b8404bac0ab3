"""What a published image processor says of a composition: sizes, cutting, kernels, pixel scales."""

from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.model import ModelConfig
from configs.resolutions import (
    AnyresResolution,
    NativeResolution,
    RowColumnResolution,
    SquareResolution,
    TilesResolution,
)
from pretrain.model.hf.family import Config
from pretrain.model.hf.published import read_json

FILES = ("preprocessor_config.json", "processor_config.json")
FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of kernels."""
CHATS = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def processor_of(folder: Path) -> Config:
    """The published settings of a folder's image processor; empty where it has none.

    Raises:
        UserError: a file of them cannot be read.
    """
    for name in FILES:
        found = _json(folder / name)
        if name == "processor_config.json":
            found = found.get("image_processor") or {}
        if found:
            return found
    return {}


def chat_template_of(folder: Path) -> str:
    """The text of a folder's chat template, a Jinja program that nothing here runs; empty where it has none."""
    for name in CHATS:
        path = folder / name
        if not path.is_file():
            continue
        found = path.read_text("utf-8") if path.suffix == ".jinja" else _json(path).get("chat_template")
        if found:
            return str(found)
    return ""


def _json(path: Path) -> Config:
    """A JSON object; empty where there is no such file."""
    found: Any = read_json(path.parent, path.name) if path.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: fetch the folder again")
    return found


def fitted(model: ModelConfig, processor: Config) -> ModelConfig:
    """The composition with what a published image processor says of it.

    Raises:
        UserError: (pydantic's ValueError inside) a value that this resolution cannot have.
    """
    if not processor:
        return model
    encoder: dict[str, Any] = {}
    if hasattr(model.encoder, "pixel_mean") and processor.get("do_normalize", True):
        for ours, theirs in (("pixel_mean", "image_mean"), ("pixel_std", "image_std")):
            if processor.get(theirs):
                encoder[ours] = tuple(float(value) for value in processor[theirs])
    tree = model.model_dump(mode="json")
    tree["encoder"] |= encoder
    tree["resolution"] |= _resolution(model, processor)
    try:
        return ModelConfig.model_validate(tree)
    except ValueError as error:
        raise UserError(f"the image processor's settings do not fit config.json: {error}") from None


def _resolution(model: ModelConfig, processor: Config) -> dict[str, Any]:
    resolution = model.resolution
    kernel = FILTERS.get(processor.get("resample", 0))
    found: dict[str, Any] = {}
    if kernel and not isinstance(resolution, NativeResolution):
        found["filter"] = kernel
    if isinstance(resolution, SquareResolution):
        if processor.get("do_center_crop"):
            found["fit"] = "crop"
        elif processor.get("do_pad"):
            found["fit"] = "pad"
    elif isinstance(resolution, NativeResolution):
        found |= _pixels(model, processor)
    elif isinstance(resolution, TilesResolution):
        names = (("min_tiles", "min_patches"), ("max_tiles", "max_patches"))
        found |= {ours: processor[theirs] for ours, theirs in names if processor.get(theirs)}
    elif isinstance(resolution, RowColumnResolution):
        size = (processor.get("max_image_size") or {}).get("longest_edge", resolution.size)
        longest = (processor.get("size") or {}).get("longest_edge", resolution.longest)
        found |= {"size": size, "longest": longest if processor.get("do_image_splitting", True) else size}
    else:
        assert isinstance(resolution, AnyresResolution)
    return found


def _pixels(model: ModelConfig, processor: Config) -> dict[str, int]:
    """Qwen2-VL's bounds are pixels of the whole picture, under one of two names."""
    cell, size = (model.encoder.patch * model.merge) ** 2, processor.get("size") or {}
    least = processor.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels")
    most = processor.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels")
    found = {"min_tokens": least, "max_tokens": most}
    return {name: value // cell for name, value in found.items() if value}
