"""Yi-VL (arXiv 2403.04652) for reference: CLIP ViT-H/14 at 448, an MLP with two layer norms, Yi's Llama with GQA."""

from torch import nn

from tests.families.reference_parts import IMAGE, Config, Llava, greedy, logits, randomise

__all__ = ["IMAGE", "PUBLISHED", "TINY", "TOWERS", "build", "greedy", "logits", "make"]

# Yi-VL-6B. The tower is a subfolder of the repository.
PUBLISHED: Config = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "freeze_mm_mlp_adapter": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_aspect_ratio": "pad",
    "image_grid_pinpoints": None,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1280,
    "mm_projector_type": "mlp2x_gelu_Norm",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "./vit/clip-vit-H-14-laion2B-s32B-b79K-yi-vl-6B-448",
    "model_type": "llava",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "tune_mm_mlp_adapter": False,
    "use_cache": True,
    "use_mm_proj": True,
    "vocab_size": 64000,
}

TINY: Config = PUBLISHED | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "mm_hidden_size": 24,
    "mm_vision_tower": "./vit/tiny-clip-42",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "torch_dtype": "float32",
    "vocab_size": 331,
}

CLIP_H: Config = {
    "architectures": ["CLIPVisionModel"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 448,
    "intermediate_size": 5120,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 32,
    "patch_size": 14,
    "projection_dim": 1024,
}

# config.json of what `mm_vision_tower` names.
TOWERS: dict[str, Config] = {
    "./vit/clip-vit-H-14-laion2B-s32B-b79K-yi-vl-6B-448": CLIP_H,
    "./vit/tiny-clip-42": CLIP_H
    | {
        "hidden_size": 24,
        "image_size": 42,
        "intermediate_size": 40,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "projection_dim": 16,
    },
}


def make(config: Config) -> nn.Module:
    """The model with whatever values torch gave it: for names and shapes."""
    seen, width = config["mm_hidden_size"], config["hidden_size"]
    projector = nn.Sequential(
        nn.Linear(seen, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width)
    )
    return Llava(config, TOWERS[config["mm_vision_tower"]], projector)


def build(config: Config, seed: int) -> nn.Module:
    """The model with every tensor random."""
    model = make(config)
    randomise(model, seed)
    return model
