"""The tokenizer inside a GGUF file as Hugging Face files: byte-level BPE with its chat template."""

import json
from pathlib import Path
from typing import Any

from configs.errors import UserError
from data_pipeline.storage import put
from pretrain.model.hf.gguf import field, open_gguf

CONTROL = 3
"""llama.cpp's type of tokens that are marks, not text."""
DIGITS_APART = ("smollm", "refact", "command-r")
PLAIN = ("gpt-2", "default")
"""Pre-tokenizers (llama.cpp's names) that are GPT-2's, with or without each digit on its own."""


def write_tokenizer(path: Path, out: Path, marks: tuple[str, ...] = ()) -> int:
    """Write OUT/tokenizer.json and tokenizer_config.json of a GGUF file's tokenizer. Returns the vocabulary's size.

    Args:
        marks: special tokens to add behind the published ones (a picture's), where they are not there.
    Raises:
        UserError: the file has a tokenizer of another kind.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    reader = open_gguf(path)

    def of(key: str, default: Any = None) -> Any:
        return field(reader, path, f"tokenizer.{key}", default)

    kind, cut = of("ggml.model"), of("ggml.pre", "default")
    if kind != "gpt2" or cut not in DIGITS_APART + PLAIN:
        raise UserError(
            f"{path} has a tokenizer {kind}/{cut}: byte-level BPE ({', '.join(DIGITS_APART + PLAIN)}) can be taken; "
            "take the model's own tokenizer.json"
        )
    tokens: list[str] = of("ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in of("ggml.merges")]
    types = of("ggml.token_type", [1] * len(tokens))
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=bool(of("ggml.add_space_prefix", False)))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if cut in DIGITS_APART else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, level])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, sort in zip(tokens, types, strict=True) if sort == CONTROL]
    special += [mark for mark in marks if mark not in tokens]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    put(str(out / "tokenizer.json"), tokenizer.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": field(reader, path, "llama.context_length"),
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = of(f"ggml.{key}_token_id", -1)
        if number >= 0:
            config[f"{name}_token"] = tokens[number]
    if of("chat_template", ""):
        config["chat_template"] = of("chat_template")
    put(str(out / "tokenizer_config.json"), json.dumps(config, indent=1).encode())
    return int(tokenizer.get_vocab_size())
