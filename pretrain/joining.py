"""A run that began with separate parts (CLIP + Llama, ...) as the published folder of LLaVA: what its export needs besides weights."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from configs.encoders import ViT
from configs.errors import UserError
from configs.resolutions import SquareResolution
from configs.schema import TrainRecipe
from data_pipeline.parts.cache import tokenizer_folder
from data_pipeline.storage import put, put_file
from data_pipeline.stream.chat import Chat
from pretrain.decoder_weights import open_weights
from pretrain.importing import ASIDE
from pretrain.model.hf.llava import FAMILY
from pretrain.model.hf.parts import open_tower, require_alike, tower_name
from pretrain.model.hf.towers import behind

REMEDY = "CLIP, square pictures, an mlp or linear projector, and Llama, Mistral or Qwen2 leave as LLaVA"
SMALL = (".json", ".model", ".txt", ".jinja")


def is_joined(recipe: TrainRecipe) -> bool:
    """Whether both parts came with published weights of their own."""
    return isinstance(recipe.model.encoder, ViT) and bool(recipe.model.encoder.weights and recipe.model.decoder.weights)


def joined_config(recipe: TrainRecipe) -> dict[str, Any]:
    """The config.json of LLaVA that such a run is.

    Raises:
        UserError: its composition is no LLaVA, or a part's folder is gone.
    """
    model = recipe.model
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, ViT) and encoder.weights is not None and decoder.weights is not None
    tower, text = open_tower(encoder.weights).config, open_weights(decoder.weights).config
    chat = Chat(recipe.data.tokenizer, recipe.data.template)
    rows = -(-(decoder.vocab_size or chat.vocab_size) // decoder.vocab_multiple) * decoder.vocab_multiple
    dtype = text.get("dtype") or text.get("torch_dtype") or "float32"
    config: dict[str, Any] = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "vision_config": {**(tower.get("vision_config") or tower), "model_type": _vision_type(tower)},
        "text_config": {**text, "vocab_size": rows},
        "image_token_index": chat.image_id,
        "image_seq_length": encoder.side**2,
        "projector_hidden_act": "identity" if model.projector.type == "linear" else "gelu",
        "vision_feature_layer": encoder.feature_layer,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": decoder.tied_head,
        "dtype": dtype,
    }
    try:
        theirs = FAMILY.model_of(config)
        free = ("weights", "vocab_size", "vocab_multiple", "scaled_residual", "max_length", "kv_heads", "head_size")
        require_alike("model.encoder", encoder, theirs.encoder, ("weights", "positions"), "LLaVA")
        require_alike("model.projector", model.projector, theirs.projector, (), "LLaVA")
        require_alike("model.decoder", decoder, theirs.decoder, free, "LLaVA")
    except (UserError, AttributeError) as error:
        raise UserError(
            f"no published family is a composition of {encoder.weights} and {decoder.weights} ({error}): {REMEDY}"
        ) from None
    if not isinstance(model.resolution, SquareResolution) or model.resolution.size != encoder.image_size:
        raise UserError(f"model.resolution {model.resolution.type} is not LLaVA's: {REMEDY}")
    return config


def write_home(recipe: TrainRecipe, home: Path) -> None:
    """Write RUN/hf as an import would have: config.json (last), tokenizer, processor, tensors that no part of ours has."""
    config, encoder, decoder = joined_config(recipe), recipe.model.encoder, recipe.model.decoder
    assert isinstance(encoder, ViT) and encoder.weights is not None and decoder.weights is not None
    home.mkdir(parents=True, exist_ok=True)
    tower, text = open_tower(encoder.weights), open_weights(decoder.weights).folder
    for folder, names in (
        (text, ("generation_config.json",)),
        (tower.folder, ("preprocessor_config.json",)),
        (tokenizer_folder(recipe.data.tokenizer), ("tokenizer*", "special_tokens_map.json", "chat_template*")),
    ):
        for path in (found for name in names if folder.is_dir() for found in folder.glob(name)):
            if path.suffix in SMALL:
                shutil.copyfile(path, home / path.name)
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": recipe.data.template.image,
        "patch_size": encoder.patch,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    put(str(home / "processor_config.json"), json.dumps(processor, indent=1).encode())
    short = {name: tower_name(name) for name in tower.names}
    kept = {
        FAMILY.published_name(known): tower.tensor(name)
        for name, known in short.items()
        if known is not None and behind(encoder, known)
    }
    if kept:
        put_file(str(home / ASIDE), lambda target: save_file(kept, target))
    put(str(home / "config.json"), json.dumps(config, indent=1).encode())


def _vision_type(tower: dict[str, Any]) -> str:
    return f"{str(tower['model_type']).removesuffix('_vision_model')}_vision_model"
