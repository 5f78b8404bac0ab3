"""Tiny published models with random tensors: norms, biases, positions and all, so that none can be forgotten unseen."""

from pathlib import Path
from typing import Any

import torch

VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 42,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "vocab_size": 331,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
}
IMAGE, CELLS = 330, 9


def randomise(model: Any, seed: int, spread: float = 0.2) -> None:
    """Every parameter random; what scales a norm stays near one (Gemma's weight is what is added to one)."""
    generator = torch.Generator().manual_seed(seed)
    added = "gemma" in str(getattr(model.config.get_text_config(), "model_type", ""))
    for name, parameter in model.named_parameters():
        norm = "norm" in name.lower() and name.endswith("weight")
        near = float(norm and not (added and "language_model" in name))
        parameter.data = near + spread * torch.randn(parameter.shape, generator=generator)


def save_llava(transformers: Any, folder: Path, **changes: Any) -> Path:
    """LLaVA-1.5 in small: three heads, one KV head, a grid of 3 x 3."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        image_seq_length=CELLS,
        **changes,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    randomise(model, 3)
    model.save_pretrained(folder)
    return folder
