"""Language models of published folders: Llama, Mistral, Qwen2, Qwen3, Gemma and OPT as settings of our decoder."""

from typing import Any

from configs.decoder import DecoderConfig, RopeScaling
from configs.errors import UserError
from pretrain.model.hf.family import Config, activation_of, only
from pretrain.model.hf.rules import Rule, layer_norm, linear, norm, padded, same

MULTIPLE = 64
LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
}
QWEN2 = LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
DEFAULTS: dict[str, Config] = {
    "llama": LLAMA,
    "mistral": LLAMA | {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    "qwen2": QWEN2,
    "qwen3": QWEN2 | {"head_dim": 128},
    "gemma": {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    "opt": {
        "vocab_size": 50272,
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
        "activation_function": "relu",
        "tie_word_embeddings": True,
    },
}
"""What a config.json of each `model_type` means where it is silent: the defaults of transformers' classes."""
OPT_OFFSET = 2
"""OPT's table of positions begins with two rows for padding."""


def decoder_of(text: Config, kind: str, **more: Any) -> DecoderConfig:
    """The decoder that a `text_config` is.

    Args:
        kind: one of DEFAULTS, whose settings it has.
        more: settings that only the family knows.
    Raises:
        UserError: it has something that our decoder does not.
    """
    if kind not in DEFAULTS:
        raise UserError(
            f"config.json has a language model of type {kind!r}: what can be imported is {', '.join(sorted(DEFAULTS))}"
        )
    config = DEFAULTS[kind] | {key: value for key, value in text.items() if value is not None}
    if kind == "opt":
        return _opt(config)
    only(config, "attention_bias", False, False)
    only(config, "mlp_bias", False, False)
    most = config["max_position_embeddings"]
    if config.get("use_sliding_window", True) and (config.get("sliding_window") or most) < most:
        raise UserError(
            f"config.json has sliding_window {config['sliding_window']}: only whole attention can be imported"
        )
    rope = {"rope_theta": config.get("rope_theta")} | (
        config.get("rope_parameters") or config.get("rope_scaling") or {}
    )
    heads, width = config["num_attention_heads"], config["hidden_size"]
    head = config.get("head_dim")
    gemma: dict[str, Any] = {"scale_embeddings": True, "norm": "rms_zero_centered"} if kind == "gemma" else {}
    return DecoderConfig(
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=None if head in (None, width / heads) else head,
        mlp_width=config["intermediate_size"],
        activation=activation_of(config["hidden_act"]),
        qkv_bias=kind == "qwen2",
        qk_norm=1.0 if kind == "qwen3" else None,
        rope_theta=rope["rope_theta"] or config["rope_theta"],
        rope_scaling=_scaling(rope),
        norm_eps=config["rms_norm_eps"],
        tied_head=bool(config.get("tie_word_embeddings", False)),
        vocab_size=config["vocab_size"],
        vocab_multiple=MULTIPLE,
        max_length=most,
        **(gemma | more),
    )


def _scaling(rope: Config) -> RopeScaling | None:
    sort = rope.get("rope_type", rope.get("type", "default"))
    # `dynamic` changes nothing up to max_position_embeddings, which is as far as a sample may reach here.
    if sort in ("default", "mrope", "dynamic"):
        return None
    if sort == "linear":
        return RopeScaling(type="linear", factor=rope["factor"])
    if sort != "llama3":
        raise UserError(
            f"config.json has RoPE of type {sort!r}: default, mrope, dynamic, linear and llama3 can be imported"
        )
    return RopeScaling(
        type="llama3",
        factor=rope["factor"],
        low_factor=rope["low_freq_factor"],
        high_factor=rope["high_freq_factor"],
        length=rope["original_max_position_embeddings"],
    )


def _opt(config: Config) -> DecoderConfig:
    only(config, "do_layer_norm_before", True, True)
    only(config, "enable_bias", True, True)
    only(config, "layer_norm_elementwise_affine", True, True)
    width = config["hidden_size"]
    only(config, "word_embed_proj_dim", width, width)
    return DecoderConfig(
        layers=config["num_hidden_layers"],
        width=width,
        heads=config["num_attention_heads"],
        mlp_width=config["ffn_dim"],
        activation=activation_of(config["activation_function"]),
        gated=False,
        qkv_bias=True,
        bias=True,
        positions="learned",
        first_position=OPT_OFFSET,
        norm="layer",
        norm_eps=1e-5,
        tied_head=bool(config["tie_word_embeddings"]),
        vocab_size=config["vocab_size"],
        vocab_multiple=MULTIPLE,
        max_length=config["max_position_embeddings"],
    )


def tied(config: Config, text: Config, default: bool = False) -> bool:
    """Whether the head is the embedding: said by either, the whole model's word first."""
    found = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    return default if found is None else bool(found)


def vocabulary_rules(decoder: DecoderConfig, embedding: str, head: str) -> list[Rule]:
    """Embedding, and the head where it is not the same."""
    assert decoder.vocab_size is not None
    rows = -(-decoder.vocab_size // decoder.vocab_multiple) * decoder.vocab_multiple
    rules = [padded("decoder.embedding.weight", embedding, rows, decoder.vocab_size, decoder.width)]
    if not decoder.tied_head:
        rules.append(padded("decoder.head.weight", head, rows, decoder.vocab_size, decoder.width))
    return rules


def decoder_rules(decoder: DecoderConfig) -> list[Rule]:
    """All tensors of a decoder; published names are `text.*` and `head.*`."""
    if decoder.positions == "learned":
        return _opt_rules(decoder)
    width, kv = decoder.width, (decoder.kv_heads or decoder.heads) * decoder.head
    wide, mlp = decoder.heads * decoder.head, decoder.mlp_width
    rules = vocabulary_rules(decoder, "text.embed_tokens.weight", "head.weight")
    rules.append(same("decoder.norm.weight", "text.norm.weight", width))
    for n in range(decoder.layers):
        ours, theirs = f"decoder.layers.{n}", f"text.layers.{n}"
        rules.append(same(f"{ours}.norm1.weight", f"{theirs}.input_layernorm.weight", width))
        rules.append(same(f"{ours}.norm2.weight", f"{theirs}.post_attention_layernorm.weight", width))
        if decoder.qk_norm is not None:
            for part in ("q_norm", "k_norm"):
                rules.append(same(f"{ours}.{part}.weight", f"{theirs}.self_attn.{part}.weight", decoder.head))
        for mine, name, outputs, inputs, bias in (
            ("q", "self_attn.q_proj", wide, width, decoder.qkv_bias),
            ("k", "self_attn.k_proj", kv, width, decoder.qkv_bias),
            ("v", "self_attn.v_proj", kv, width, decoder.qkv_bias),
            ("out", "self_attn.o_proj", width, wide, decoder.bias),
            ("gate", "mlp.gate_proj", mlp, width, decoder.bias),
            ("up", "mlp.up_proj", mlp, width, decoder.bias),
            ("down", "mlp.down_proj", width, mlp, decoder.bias),
        ):
            rules += linear(f"{ours}.{mine}", f"{theirs}.{name}", outputs, inputs, bias)
    return rules


def _opt_rules(decoder: DecoderConfig) -> list[Rule]:
    width = decoder.width
    rules = vocabulary_rules(decoder, "text.embed_tokens.weight", "head.weight")
    rows = decoder.first_position + decoder.max_length
    rules.append(same("decoder.positions.weight", "text.embed_positions.weight", rows, width))
    rules += norm("decoder.norm", "text.final_layer_norm", width, decoder.norm)
    for n in range(decoder.layers):
        ours, theirs = f"decoder.layers.{n}", f"text.layers.{n}"
        rules += layer_norm(f"{ours}.norm1", f"{theirs}.self_attn_layer_norm", width)
        rules += layer_norm(f"{ours}.norm2", f"{theirs}.final_layer_norm", width)
        for mine, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "out_proj")):
            rules += linear(f"{ours}.{mine}", f"{theirs}.self_attn.{name}", width, width)
        rules += linear(f"{ours}.up", f"{theirs}.fc1", decoder.mlp_width, width)
        rules += linear(f"{ours}.down", f"{theirs}.fc2", width, decoder.mlp_width)
    return rules
