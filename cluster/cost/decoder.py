"""Llama-shaped decoder (pretrain/model/decoder.py): embedding, layers, norm, loss."""

from cluster.cost.ops import Activation, Attend, Cut, HeadNorm, Linear, Lookup, Loss, Module, Norm, Op
from configs.decoder import DecoderConfig


def padded_vocabulary(config: DecoderConfig, vocabulary: int) -> int:
    """Rows of the embedding: the tokenizer's vocabulary, padded to a multiple."""
    return -(-vocabulary // config.vocab_multiple) * config.vocab_multiple


def embedding(config: DecoderConfig, vocabulary: int) -> Module:
    return Module("decoder", "text", (Lookup("embedding", padded_vocabulary(config, vocabulary), config.width),))


def layers(config: DecoderConfig, tp: int) -> list[Module]:
    """Fewer KV heads than TP divides are whole on every rank, their gradients summed."""
    width, wide, head = config.width, config.mlp_width, config.width // config.heads
    kv_heads = config.kv_heads or config.heads
    shared = kv_heads % tp != 0
    kv: Cut = "partial" if shared else "column"
    norms: list[Op] = []
    if config.qk_norm is not None:
        norms = [
            HeadNorm("q_norm", head, config.heads, True),
            HeadNorm("k_norm", head, config.heads if shared else kv_heads, True),
        ]
    ops: list[Op] = [
        Norm("norm1", width),
        Linear("q", width, width, "column"),
        Linear("k", width, kv_heads * head, kv, first=False),
        Linear("v", width, kv_heads * head, kv, first=False),
        *norms,
        Attend(config.heads, kv_heads, head, causal=True, cut=True),
        Linear("out", width, width, "row"),
        Norm("norm2", width),
        Linear("gate", width, wide, "column"),
        Linear("up", width, wide, "column", first=False),
        Activation(wide, gated=True, cut=True),
        Linear("down", wide, width, "row"),
    ]
    return [Module(f"decoder.layers.{n}", "text", tuple(ops), leaf=True) for n in range(config.layers)]


def ending(config: DecoderConfig, vocabulary: int) -> list[Module]:
    """The final norm, and logits with their loss."""
    loss = Loss(None if config.tied_head else "head", padded_vocabulary(config, vocabulary), config.width)
    return [Module("decoder", "text", (Norm("norm", config.width),)), Module("decoder", "labels", (loss,))]
