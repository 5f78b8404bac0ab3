"""Tiny models of transformers' classes, one a family, and how each is given a packed sample's pictures.

Head ratios are odd on purpose (three heads in towers, one KV head), every size differs from the others, and every tensor is
random: a mapping that forgets or swaps one cannot pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.stream.batch import Batch
from tests.families.published import IMAGE, TEXT, VISION, randomise

WIDTH, VOCABULARY = TEXT["hidden_size"], TEXT["vocab_size"]
FOUR = {**VISION, "image_size": 56}
"""A grid of 4 x 4, whose cells can be merged."""
MROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 128}
"""Llama 3.1's RoPE: of a head's four frequencies one stays, one lies between, two are slow."""
FORMER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "encoder_hidden_size": 24,
    "cross_attention_frequency": 2,
}
OPT = {
    "model_type": "opt",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": WIDTH,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
}


SPREAD = 0.15
"""Of the tensors. With it fp32 logits lie within 8e-6 of fp64's on either side, and within 7e-6 of each other; at 0.2 transformers' own do not stay within
1e-5 of fp64's (ours do)."""


@dataclass(frozen=True)
class Tiny:
    """A family in small."""

    name: str
    make: Callable[[Any], Any]
    """transformers -> a model."""
    pixels: Callable[[Batch, Tensor, list[tuple[int, int]], dict[str, Any]], dict[str, Any]]
    """(batch of one sample, its views [W, 3, S, S] normalised, sizes of its pictures, config) -> arguments of its forward."""
    trained_at: dict[str, Any] | None = None
    """Another resolution for training with a tokenizer that lacks the family's marks."""


def _llava_next(t: Any) -> Any:
    grids = [[42, 84], [84, 42], [84, 84]]
    config = t.LlavaNextConfig(
        vision_config=t.CLIPVisionConfig(**VISION),
        text_config=t.MistralConfig(**TEXT),
        image_token_index=IMAGE,
        image_grid_pinpoints=grids,
    )
    return t.LlavaNextForConditionalGeneration(config)


def _blip2(t: Any) -> Any:
    config = t.Blip2Config(
        vision_config=dict(VISION), qformer_config=FORMER, text_config=OPT, num_query_tokens=5, image_token_index=IMAGE
    )
    return t.Blip2ForConditionalGeneration(config)


def _qwen2_vl(t: Any) -> Any:
    vision = {"depth": 2, "embed_dim": 24, "hidden_size": WIDTH, "mlp_ratio": 2, "num_heads": 3}
    config = t.Qwen2VLConfig(text_config={**TEXT, **MROPE}, vision_config=vision, image_token_id=IMAGE)
    return t.Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl(t: Any) -> Any:
    vision = {
        "depth": 3,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_heads": 3,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    config = t.Qwen2_5_VLConfig(text_config={**TEXT, **MROPE}, vision_config=vision, image_token_id=IMAGE)
    return t.Qwen2_5_VLForConditionalGeneration(config)


def _internvl(t: Any, **more: Any) -> Any:
    vision = {**VISION, "image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True, **more}
    text = {**TEXT, "model_type": "qwen2"}
    config = t.InternVLConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    return t.InternVLForConditionalGeneration(config)


def _internvl_6b(t: Any) -> Any:
    """InternViT-6B's norms, on Llama whose positions are interpolated."""
    vision = {"use_qk_norm": True, "norm_type": "rms_norm", "attention_bias": False}
    vision = {**VISION, "image_size": [56, 56], "patch_size": [14, 14], **vision}
    text = {**TEXT, "model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}
    return t.InternVLForConditionalGeneration(
        t.InternVLConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    )


def _paligemma(t: Any) -> Any:
    vision = {"model_type": "siglip_vision_model", "projection_dim": WIDTH, **VISION}
    text = {**TEXT, "model_type": "gemma", "head_dim": 12}
    config = t.PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, projection_dim=WIDTH)
    return t.PaliGemmaForConditionalGeneration(config)


def _idefics(t: Any, name: str) -> Any:
    text = {**TEXT, "model_type": "llama", "pad_token_id": 0}
    if name == "Idefics3":
        text["rope_scaling"] = LLAMA3
    config = getattr(t, f"{name}Config")(vision_config=FOUR, text_config=text, scale_factor=2, image_token_id=IMAGE)
    return getattr(t, f"{name}ForConditionalGeneration")(config)


def _plain(batch: Batch, views: Tensor, sizes: list[tuple[int, int]], config: dict[str, Any]) -> dict[str, Any]:
    return {"pixel_values": views}


def _anyres(batch: Batch, views: Tensor, sizes: list[tuple[int, int]], config: dict[str, Any]) -> dict[str, Any]:
    counts = batch.vision.views.tolist() if batch.vision.views is not None else [1] * len(sizes)
    parts = list(views.split(counts))
    padded = torch.zeros(len(parts), max(counts), *views.shape[1:])
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return {"pixel_values": padded, "image_sizes": torch.tensor([[high, wide] for wide, high in sizes])}


def _native(batch: Batch, views: Tensor, sizes: list[tuple[int, int]], config: dict[str, Any]) -> dict[str, Any]:
    """A still picture stands twice in a patch of two frames; merged cells are neighbours in both layouts."""
    frames, patch = config["vision_config"]["temporal_patch_size"], config["vision_config"]["patch_size"]
    flat = views.view(-1, 3, 1, patch * patch).expand(-1, -1, frames, -1).reshape(len(views), -1)
    grids = [[1, 2 * rows, 2 * columns] for rows, columns in batch.vision.grids.tolist()]
    return {
        "pixel_values": flat,
        "image_grid_thw": torch.tensor(grids),
        "mm_token_type_ids": torch.from_numpy((batch.ids == IMAGE).astype("int64")),
    }


def _tiles(batch: Batch, views: Tensor, sizes: list[tuple[int, int]], config: dict[str, Any]) -> dict[str, Any]:
    return {"pixel_values": views[None]}


SQUARE = {"type": "square", "size": FOUR["image_size"]}
FAMILIES = {
    tiny.name: tiny
    for tiny in (
        Tiny("llava_next", _llava_next, _anyres),
        Tiny("blip2", _blip2, _plain),
        Tiny("qwen2_vl", _qwen2_vl, _native),
        Tiny("qwen2_5_vl", _qwen2_5_vl, _native),
        Tiny("internvl", _internvl, _plain),
        Tiny("internvl_6b", _internvl_6b, _plain),
        Tiny("paligemma", _paligemma, _plain),
        Tiny("idefics3", lambda t: _idefics(t, "Idefics3"), _tiles, SQUARE),
        Tiny("smolvlm", lambda t: _idefics(t, "SmolVLM"), _tiles, SQUARE),
    )
}


def save(transformers: Any, name: str, folder: Path, spread: float = SPREAD) -> Path:
    """Write the tiny model of a family as it is published."""
    model = FAMILIES[name].make(transformers)
    randomise(model, 3, spread)
    model.save_pretrained(folder)
    return folder
