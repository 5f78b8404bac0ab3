"""Bytes outside training: checkpoints, and inference with its cache of keys and values."""

from dataclasses import dataclass

from cluster.cost.parts import Model
from configs.decoder import DecoderConfig

FP32 = 4
KINDS = 3
"""fp32 weights and two moments of every trained element; a frozen one is written once a run, weights alone."""


@dataclass(frozen=True)
class CheckpointBytes:
    each: int
    frozen: int

    def kept(self, count: int) -> int:
        """On disk with `count` checkpoints."""
        return self.each * count + self.frozen


def checkpoint_bytes(model: Model) -> CheckpointBytes:
    """Tensors of a checkpoint (pretrain/checkpoint.py); its indexes add less than a thousandth."""
    each = sum(p.weight.size for p in model.weights if p.trained) * FP32 * KINDS
    return CheckpointBytes(each, sum(p.weight.size for p in model.weights if not p.trained) * FP32)


def cache_bytes(config: DecoderConfig, tp: int, math_bytes: int) -> int:
    """Bytes of keys and values of one position on one rank, all layers."""
    kv_heads = config.kv_heads or config.heads
    mine = kv_heads // tp if kv_heads % tp == 0 else config.heads // tp
    return 2 * config.layers * mine * config.head * math_bytes


def inference_bytes(model: Model, config: DecoderConfig, weight: int, math: int, sequences: int) -> dict[str, int]:
    """Weights and a full cache of `sequences` sequences on one rank."""
    weights = sum(p.weight.local(model.tp) for p in model.weights) * weight
    position = cache_bytes(config, model.tp, math)
    cache = position * config.max_length * sequences
    return {"weights": weights, "cache_per_position": position, "cache": cache, "total": weights + cache}
