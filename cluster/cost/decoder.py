"""The decoder (pretrain/model/decoder.py): embedding, positions, layers with a visual expert where asked for, norm, loss."""

from typing import Any

from cluster.cost.ops import Activation, Attend, Cut, HeadNorm, Linear, Lookup, Loss, Module, Norm, Op, Repeated
from configs.decoder import DecoderConfig

INT64 = 8
EXPERT = 1
"""An expert's weights are listed after the layer's own."""


def padded_vocabulary(config: DecoderConfig, vocabulary: int) -> int:
    """Rows of the embedding: the tokenizer's vocabulary, padded to a multiple."""
    return -(-vocabulary // config.vocab_multiple) * config.vocab_multiple


def beginning(config: DecoderConfig, vocabulary: int) -> list[Module]:
    """The embedding, and a table of positions where they are learned."""
    made = [Module("decoder", "text", (Lookup("embedding", padded_vocabulary(config, vocabulary), config.width),))]
    if config.positions == "learned":
        rows = config.first_position + config.max_length
        # Rows are looked up by the first of three kinds of positions, which lie in one array.
        places = Repeated("positions.weight", config.width, rows, looked_up=3 * INT64)
        made.append(Module("decoder", "text", (places,)))
    return made


def layers(config: DecoderConfig, tp: int) -> list[Module]:
    """Fewer KV heads than TP divides are whole on every rank, their gradients summed."""
    width, wide, head = config.width, config.heads * config.head, config.head
    kv_heads = config.kv_heads or config.heads
    shared = kv_heads % tp != 0
    kv: Cut = "partial" if shared else "column"
    norms: list[Op] = []
    if config.qk_norm is not None:
        norms = [
            HeadNorm("q_norm", head, config.heads, True),
            HeadNorm("k_norm", head, config.heads if shared else kv_heads, True),
        ]
    ops = (
        Norm("norm1", width, config.norm),
        *_maps(config, "q", width, wide, "column", config.qkv_bias),
        *_maps(config, "k", width, kv_heads * head, kv, config.qkv_bias, first=False),
        *_maps(config, "v", width, kv_heads * head, kv, config.qkv_bias, first=False),
        *norms,
        Attend(config.heads, kv_heads, head, causal=True, cut=True, rotated=config.positions != "learned"),
        *_maps(config, "out", wide, width, "row", config.bias),
        Norm("norm2", width, config.norm),
        *_mlp(config),
    )
    return [Module(f"decoder.layers.{n}", "text", ops, leaf=True, block=width) for n in range(config.layers)]


def _mlp(config: DecoderConfig) -> list[Op]:
    width, wide, gated = config.width, config.mlp_width, config.gated
    kept = gated or config.activation != "relu"
    return [
        *(_maps(config, "gate", width, wide, "column", config.bias) if gated else ()),
        *_maps(config, "up", width, wide, "column", config.bias, first=not gated),
        Activation(config.activation, wide, gated, cut=True),
        *_maps(config, "down", wide, width, "row", config.bias, kept=kept),
    ]


def _maps(
    config: DecoderConfig,
    name: str,
    inputs: int,
    outputs: int,
    cut: Cut,
    bias: bool,
    first: bool = True,
    kept: bool = True,
) -> list[Op]:
    """A linear; with an expert two, each of which gathers its own inputs."""
    if not config.expert:
        return [Linear(name, inputs, outputs, cut, bias, first, kept)]
    where: list[dict[str, Any]] = [{"on": "outer"}, {"on": "inner", "at": EXPERT}]
    names = (name, f"expert.{name}")
    return [Linear(n, inputs, outputs, cut, bias, **place) for n, place in zip(names, where, strict=True)]


def ending(config: DecoderConfig, vocabulary: int) -> list[Module]:
    """The final norm, and logits with their loss."""
    loss = Loss(None if config.tied_head else "head", padded_vocabulary(config, vocabulary), config.width)
    return [Module("decoder", "text", (Norm("norm", config.width, config.norm),)), Module("decoder", "labels", (loss,))]
