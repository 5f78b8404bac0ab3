"""Published configurations of the families that transformers has classes for: config.json, and what the image processor says.

Keys at their class's defaults are left out, as `save_pretrained` leaves them out of nested configurations.
"""

from dataclasses import dataclass, field
from typing import Any

CLIP_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
QWEN25_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 32768,
}
CLIP_SCALE = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
CLIP_PROCESSOR = CLIP_SCALE | {"do_center_crop": True, "resample": 3, "size": {"shortest_edge": 336}}
MROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


@dataclass(frozen=True)
class Size:
    """One published model: its hub id, class, config.json, image processor, and its parameters as its card rounds them."""

    hub: str
    kind: str
    config: dict[str, Any]
    billions: float
    processor: dict[str, Any] = field(default_factory=dict)


SIZES = {
    "llava15": Size(
        "llava-hf/llava-1.5-7b-hf",
        "Llava",
        {
            "model_type": "llava",
            "image_token_index": 32000,
            "text_config": {
                "model_type": "llama",
                "max_position_embeddings": 4096,
                "rms_norm_eps": 1e-5,
                "vocab_size": 32064,
            },
            "vision_config": CLIP_L,
        },
        7.06,
        CLIP_PROCESSOR,
    ),
    "llava_next": Size(
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "LlavaNext",
        {
            "model_type": "llava_next",
            "image_token_index": 32000,
            "image_grid_pinpoints": PINPOINTS,
            "text_config": {
                "model_type": "mistral",
                "intermediate_size": 14336,
                "max_position_embeddings": 32768,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-5,
                "rope_theta": 1000000.0,
                "sliding_window": None,
                "vocab_size": 32064,
            },
            "vision_config": CLIP_L,
        },
        7.57,
        CLIP_PROCESSOR,
    ),
    "blip2": Size(
        "Salesforce/blip2-opt-2.7b",
        "Blip2",
        {
            "model_type": "blip-2",
            "num_query_tokens": 32,
            "image_token_index": 50265,
            "qformer_config": {"model_type": "blip_2_qformer", "vocab_size": 30523},
            "text_config": {
                "model_type": "opt",
                "ffn_dim": 10240,
                "hidden_size": 2560,
                "num_attention_heads": 32,
                "num_hidden_layers": 32,
                "vocab_size": 50304,
                "word_embed_proj_dim": 2560,
            },
            "vision_config": {"model_type": "blip_2_vision_model"},
        },
        3.74,
        CLIP_SCALE | {"resample": 3, "size": {"height": 224, "width": 224}},
    ),
    "qwen2_vl": Size(
        "Qwen/Qwen2-VL-7B-Instruct",
        "Qwen2VL",
        {
            "model_type": "qwen2_vl",
            "image_token_id": 151655,
            "text_config": QWEN25_7B | MROPE | {"vocab_size": 152064},
            "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16},
        },
        8.29,
        CLIP_SCALE | {"min_pixels": 3136, "max_pixels": 12845056},
    ),
    "qwen25_vl": Size(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen2_5_VL",
        {
            "model_type": "qwen2_5_vl",
            "image_token_id": 151655,
            "text_config": QWEN25_7B | MROPE | {"vocab_size": 152064, "max_position_embeddings": 128000},
            "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
        },
        8.29,
        CLIP_SCALE | {"min_pixels": 3136, "max_pixels": 12845056},
    ),
    "internvl": Size(
        "OpenGVLab/InternVL3-8B-hf",
        "InternVL",
        {
            "model_type": "internvl",
            "image_token_id": 151667,
            "downsample_ratio": 0.5,
            "tie_word_embeddings": False,
            "text_config": QWEN25_7B
            | {
                "model_type": "qwen2",
                "rope_scaling": {"factor": 2.0, "type": "dynamic"},
                "vocab_size": 151674,
            },
            "vision_config": {"model_type": "internvl_vision", "attention_bias": True},
        },
        7.94,
        {"min_patches": 1, "max_patches": 12, "resample": 3, "size": {"height": 448, "width": 448}},
    ),
    "paligemma": Size(
        "google/paligemma-3b-pt-224",
        "PaliGemma",
        {
            "model_type": "paligemma",
            "image_token_index": 257152,
            "projection_dim": 2048,
            "text_config": {
                "model_type": "gemma",
                "hidden_size": 2048,
                "intermediate_size": 16384,
                "num_attention_heads": 8,
                "num_hidden_layers": 18,
                "num_key_value_heads": 1,
                "vocab_size": 257216,
            },
            "vision_config": SO400M | {"model_type": "siglip_vision_model", "patch_size": 14, "vision_use_head": False},
        },
        2.92,
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": 224, "width": 224}},
    ),
    "idefics3": Size(
        "HuggingFaceM4/Idefics3-8B-Llama3",
        "Idefics3",
        {
            "model_type": "idefics3",
            "image_token_id": 128257,
            "scale_factor": 2,
            "text_config": {
                "model_type": "llama",
                "intermediate_size": 14336,
                "max_position_embeddings": 131072,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-5,
                "rope_scaling": {
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                    "rope_type": "llama3",
                },
                "rope_theta": 500000.0,
                "vocab_size": 128259,
                "pad_token_id": 128002,
            },
            "vision_config": SO400M | {"model_type": "idefics3_vision", "image_size": 364, "patch_size": 14},
        },
        8.46,
        {"resample": 1, "size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}},
    ),
    "smolvlm": Size(
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        "Idefics3",
        {
            "model_type": "idefics3",
            "image_token_id": 49190,
            "scale_factor": 4,
            "text_config": {
                "model_type": "llama",
                "hidden_size": 576,
                "intermediate_size": 1536,
                "max_position_embeddings": 8192,
                "num_attention_heads": 9,
                "num_hidden_layers": 30,
                "num_key_value_heads": 3,
                "rms_norm_eps": 1e-5,
                "rope_theta": 100000.0,
                "tie_word_embeddings": False,
                "vocab_size": 49280,
                "pad_token_id": 2,
            },
            "tie_word_embeddings": False,
            "vision_config": {
                "model_type": "idefics3_vision",
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_attention_heads": 12,
                "num_hidden_layers": 12,
                "image_size": 512,
                "patch_size": 16,
            },
        },
        0.256,
        {"resample": 1, "size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}},
    ),
}
"""By the name of the recipe. SmolVLM-256M's card counts 256 M; its configuration does not tie the head."""
