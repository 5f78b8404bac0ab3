"""A GGUF file (llama.cpp's format) as a published language model: dequantised tensor by tensor, names and layout of Hugging Face.

llama.cpp turns query and key rows so that RoPE's pairs are neighbours; here they are turned back. The `gguf` package reads
the file and knows the quantisations.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from data_pipeline.parts.cache import find
from data_pipeline.parts.name import Package, part_of
from data_pipeline.parts.wheel import package_file

SUFFIX = ".gguf"
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Parts of llama.cpp's names -> those of transformers' LlamaForCausalLM."""


def weights_path(weights: str) -> Path:
    """The file or folder of a `model.decoder.weights` setting.

    Raises:
        UserError: it is not there, or its package is not installed.
    """
    part, key = part_of(weights), "model.decoder.weights"
    return package_file(part, f"*{SUFFIX}", key) if isinstance(part, Package) else find(weights, key)


def open_gguf(path: Path) -> Any:
    """The file under the `gguf` package's reader (a memory map).

    Raises:
        UserError: no such file, no such package, or no GGUF.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the path of a {SUFFIX} file")
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError(f"{path} needs the package that reads GGUF: pip install gguf") from None
    try:
        return GGUFReader(str(path))
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise UserError(f"{path} cannot be read as GGUF ({error}): fetch it again") from None


def field(reader: Any, path: Path, key: str, default: Any = None) -> Any:
    """A value of the file's header.

    Raises:
        UserError: it is not there and has no default.
    """
    found = reader.get_field(key)
    if found is None and default is None:
        raise UserError(f"{path} has no {key} in its header: convert the model again with llama.cpp's own script")
    return default if found is None else found.contents()


class Gguf:
    """Read access like `published.Published`'s: config, names, shapes, tensors (fp32).

    Raises:
        UserError: another architecture than Llama's, scaled RoPE, or a tensor that Llama does not have.
    """

    def __init__(self, path: Path):
        self.folder = path
        self._reader = open_gguf(path)
        kind = field(self._reader, path, "general.architecture")
        if kind != "llama":
            raise UserError(f"{path} is of architecture {kind!r}: of GGUF files, llama (SmolLM2 too) can be imported")
        self._tensors = {self._name(tensor.name): tensor for tensor in self._reader.tensors}
        self.config = self._config()

    @property
    def names(self) -> list[str]:
        return sorted(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without dequantising it. GGUF writes sizes from the inside out."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def dtype(self, name: str) -> str:
        """What `tensor` gives."""
        return "F32"

    def tensor(self, name: str) -> Tensor:
        """One tensor, dequantised to fp32, in the layout of transformers.

        Raises:
            UserError: a quantisation that the `gguf` package cannot undo.
        """
        from gguf.quants import dequantize

        stored = self._tensors[name]
        try:
            whole = dequantize(stored.data, stored.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"{self.folder} has {name} in {stored.tensor_type.name}: {error}; use Q4_1, Q8_0 or F16"
            ) from None
        found = torch.from_numpy(np.array(whole, np.float32)).reshape(self.shape(name))
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if f".{part}." in name:
                return turned_back(found, self.config[heads])
        return found

    def _name(self, name: str) -> str:
        part, _, last = name.rpartition(".")
        if part in WHOLE and last == "weight":
            return f"{WHOLE[part]}.weight"
        pieces = part.split(".")
        if len(pieces) == 3 and pieces[0] == "blk" and pieces[2] in IN_LAYER and last == "weight":
            return f"model.layers.{pieces[1]}.{IN_LAYER[pieces[2]]}.weight"
        raise UserError(f"{self.folder} has a tensor {name} that a Llama does not have: it cannot be imported")

    def _config(self) -> dict[str, Any]:
        def of(key: str, default: Any = None) -> Any:
            return field(self._reader, self.folder, f"llama.{key}", default)

        if of("rope.scaling.type", "none") != "none":
            raise UserError(
                f"{self.folder} has scaled RoPE ({of('rope.scaling.type')}): only the plain one can be imported"
            )
        heads, width = int(of("attention.head_count")), int(of("embedding_length"))
        head = int(of("attention.key_length", width // heads))
        return {
            "model_type": "llama",
            "vocab_size": self.shape("model.embed_tokens.weight")[0],
            "hidden_size": width,
            "intermediate_size": int(of("feed_forward_length")),
            "num_hidden_layers": int(of("block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(of("attention.head_count_kv", heads)),
            "head_dim": head,
            "max_position_embeddings": int(of("context_length")),
            "rms_norm_eps": float(f"{of('attention.layer_norm_rms_epsilon'):.6g}"),  # stored as fp32: 9.9999997e-06
            "rope_theta": float(of("rope.freq_base", 10000.0)),
            "tie_word_embeddings": "lm_head.weight" not in self._tensors,
        }


def turned_back(rows: Tensor, heads: int) -> Tensor:
    """[heads * size, I]: each head's rows 0, 1, 2, ... of llama.cpp are rows 0, size / 2, 1, size / 2 + 1, ... of transformers."""
    inner = rows.shape[0] // heads // 2
    return rows.reshape(heads, inner, 2, -1).transpose(1, 2).reshape(rows.shape).contiguous()
