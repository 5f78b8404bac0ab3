"""Vision towers and language models of their own folders as a start: parity with transformers, every topology, refusals."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.decoder import DecoderConfig
from configs.encoders import ViT
from configs.errors import DONE, UserError
from configs.load import dump_recipe, load_recipe
from configs.model import ModelConfig
from configs.resolutions import SquareResolution
from data_pipeline.parts.recipe import parts_of
from pretrain import decoder_weights, encoder_weights
from pretrain.cli.main import main
from pretrain.exporting import home_of
from pretrain.mesh import Mesh
from pretrain.model.hf.parts import require_alike, tower_of
from pretrain.model.hf.text import decoder_of
from pretrain.model.hf.towers import CLIP_MEAN, CLIP_STD
from pretrain.model.linear import logical_of
from pretrain.model.vlm import VisionLanguageModel, make_model
from tests.families.ours import inputs_of, logits_of, open_model, samples_of
from tests.families.published import TEXT, VISION, randomise
from tests.families.tiny import SPREAD
from tests.pretrain.training_cases import small_recipe
from tests.support.pool import Pool

VOCABULARY, SIDE, PATCH = TEXT["vocab_size"], VISION["image_size"], VISION["patch_size"]
OPT = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}
OPT |= {"vocab_size": VOCABULARY, "max_position_embeddings": 160}


def saved(model: Any, folder: Path) -> Path:
    randomise(model, 5, SPREAD)
    model.save_pretrained(folder)
    return folder


def make_tower(t: Any, kind: str) -> Any:
    sort = kind.partition("_")[0]
    vision = getattr(t, f"{sort}VisionConfig")(**VISION)
    if kind.endswith("_alone"):
        return getattr(t, f"{sort}VisionModel")(vision)
    text = {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 30,
    }
    return getattr(t, f"{sort}Model")(getattr(t, f"{sort}Config")(text_config=text, vision_config=VISION))


TOWERS = ("CLIP", "CLIP_alone", "Siglip", "Siglip_alone")
MAKE_TEXT = {
    "llama": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**TEXT)),
    "llama_bare": lambda t: t.LlamaModel(t.LlamaConfig(**TEXT, tie_word_embeddings=True)),
    "mistral": lambda t: t.MistralForCausalLM(t.MistralConfig(**TEXT)),
    "qwen2": lambda t: t.Qwen2ForCausalLM(t.Qwen2Config(**TEXT, tie_word_embeddings=True)),
    "qwen3": lambda t: t.Qwen3ForCausalLM(t.Qwen3Config(**TEXT, head_dim=12)),
    "gemma": lambda t: t.GemmaForCausalLM(t.GemmaConfig(**TEXT, head_dim=12)),
    "opt": lambda t: t.OPTForCausalLM(t.OPTConfig(**OPT)),
}


@pytest.fixture(scope="module")
def folders(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("parts")
    made = {kind: saved(make_tower(transformers, kind), place / kind) for kind in TOWERS}
    return made | {kind: saved(make(transformers), place / kind) for kind, make in MAKE_TEXT.items()}


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return found


def encoder_of(folder: Path, feature_layer: int = -2, **changes: Any) -> ViT:
    made = tower_of(config_of(folder), feature_layer)
    return ViT(**(made.model_dump() | {"weights": str(folder)} | changes))


def decoder_config(folder: Path, **changes: Any) -> DecoderConfig:
    config = config_of(folder)
    made = decoder_of(config, config["model_type"])
    return DecoderConfig(**(made.model_dump() | {"weights": str(folder)} | changes))


def filled(mesh: Mesh, encoder: ViT, decoder: DecoderConfig) -> VisionLanguageModel:
    """A plain model in fp32 whose parts are the published ones."""
    config = ModelConfig(encoder=encoder, resolution=SquareResolution(size=SIDE), decoder=decoder)
    net = make_model(config, VOCABULARY, mesh, "fp32", "fp32", 0)
    parameters = {logical_of(p).name: p for p in net.parameters()}
    for tensors in (encoder_weights.tensors_of(encoder), decoder_weights.tensors_of(decoder, VOCABULARY)):
        for name, whole in tensors:
            parameters.pop(name).data.copy_(whole)
    assert all(name.startswith("projector.") for name in parameters), sorted(parameters)
    return net


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("feature_layer", [-2, -1])
def test_features_are_those_of_the_tower_alone(
    kind: str, feature_layer: int, folders: dict[str, Path], mesh: Mesh, transformers: Any
) -> None:
    """fp32, |features| up to 8: measured within 6e-6."""
    encoder = encoder_of(folders[kind], feature_layer)
    net = filled(mesh, encoder, decoder_config(folders["llama"]))
    picture = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    ours = net.encode(inputs_of([([1, 2], [picture])], 0, PATCH, mesh)).detach()
    theirs = getattr(transformers, f"{kind.partition('_')[0]}VisionModel").from_pretrained(folders[kind]).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.pixel_mean, encoder.pixel_std))
    pixels = ((torch.from_numpy(picture).permute(2, 0, 1).float() / 255 - mean) / std)[None]
    with torch.no_grad():
        said = theirs(pixel_values=pixels, output_hidden_states=True)
    wanted = said.hidden_states[feature_layer][0]
    if feature_layer == -1:  # ours are behind the last norm
        wanted = said.last_hidden_state[0]
        wanted = (
            theirs.post_layernorm(wanted) if kind.startswith("CLIP") and hasattr(theirs, "post_layernorm") else wanted
        )
        if kind.startswith("CLIP") and not hasattr(theirs, "post_layernorm"):
            wanted = theirs.vision_model.post_layernorm(wanted)
    wanted = wanted[1:] if encoder.class_token == "drop" else wanted
    assert wanted.abs().max() > 0.5 and (ours - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", MAKE_TEXT)
def test_logits_are_those_of_the_language_model_alone(
    kind: str, folders: dict[str, Path], mesh: Mesh, transformers: Any
) -> None:
    """fp32, |logits| up to 7: measured within 5e-6."""
    decoder = decoder_config(folders[kind])
    net = filled(mesh, encoder_of(folders["CLIP"]), decoder)
    ids = np.random.default_rng(2).integers(3, VOCABULARY - 2, 20).tolist()
    inputs = inputs_of([(ids, [])], -1, PATCH, mesh)
    first = torch.tensor([[decoder.first_position + n for n in range(len(ids))]] * 3)
    with torch.no_grad():
        ours = logits_of(net, replace(inputs, positions=first), VOCABULARY)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folders[kind], attn_implementation="eager").eval()
        wanted = theirs(input_ids=torch.tensor([ids])).logits[0]
    assert wanted.abs().max() > 0.5 and (ours - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize(("encoder", "decoder"), [("CLIP", "llama"), ("Siglip_alone", "qwen2")])
@pytest.mark.parametrize(("ranks", "tp", "zero"), [(1, 1, 1), (2, 1, 3), (2, 2, 3)])
def test_a_training_starts_from_both(
    encoder: str,
    decoder: str,
    ranks: int,
    tp: int,
    zero: int,
    pool: Pool,
    squares: Path,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Two steps of the projector under ZeRO and TP: what is frozen is saved as it was published, bit for bit."""
    tower, text = encoder_of(folders[encoder]), decoder_config(folders[decoder])
    parts = {
        "model": {
            "encoder": tower.model_dump(mode="json"),
            "resolution": {"type": "square", "size": SIDE},
            "projector": {"type": "mlp"},
            "decoder": text.model_dump(mode="json"),
        },
        "stage": {"steps": 2, "train": {"projector": 0.01}},
        "parallel": {"zero": zero, "precision": "fp32", "tp": tp},
        "log": {"to": []},
    }
    arguments = {"world": str(squares), "run": str(tmp_path / "run"), "parts": parts, "vocabulary": VOCABULARY}
    found = pool.run("tests.families.starts_cases:started", ranks, tp, **arguments)[0]
    assert found["wrong"] == [] and found["count"] > 40
    fresh = {name for name in found["names"] if name.startswith("projector.")}
    assert len(found["names"]) == found["count"] + len(fresh) and len(fresh) == 4


def parts_of_run(encoder: ViT, decoder: DecoderConfig, **changes: Any) -> dict[str, Any]:
    model = {
        "encoder": encoder.model_dump(mode="json"),
        "resolution": {"type": "square", "size": SIDE},
        "projector": {"type": "mlp"},
        "decoder": decoder.model_dump(mode="json"),
    }
    stage = {"steps": 2, "train": {"projector": 0.01, "decoder": 0.01, "encoder": 0.01}}
    return {
        "model": model | changes,
        "stage": stage,
        "parallel": {"zero": 3, "precision": "fp32", "tp": 2},
        "log": {"to": []},
    }


def test_what_began_as_clip_and_llama_leaves_as_llava(
    pool: Pool, squares: Path, folders: dict[str, Path], tmp_path: Path, mesh: Mesh, transformers: Any
) -> None:
    """All parts trained under ZeRO-3 x TP 2: the same logits in transformers (fp32)."""
    run, out = tmp_path / "run", tmp_path / "out"
    parts = parts_of_run(encoder_of(folders["CLIP"]), decoder_config(folders["llama"], vocab_multiple=64))
    for found in pool.run("tests.pretrain.training_cases:trained", 2, 2, world=str(squares), run=str(run), parts=parts):
        assert (found["did"], found["refused"]) == (2, None)
    assert main(["export", str(run), str(out), "--dry-run"]) == DONE and not out.exists() and not (run / "hf").exists()
    assert main(["export", str(run), str(out)]) == DONE
    theirs, told = transformers.LlavaForConditionalGeneration.from_pretrained(
        out, attn_implementation="eager", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"] and (out / "tokenizer.json").exists()
    image = theirs.config.image_token_index
    net, samples = open_model(run, mesh), samples_of(image, (SIDE // PATCH) ** 2, SIDE)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    wanted = []
    with torch.no_grad():
        ours = logits_of(net, inputs_of(samples, image, PATCH, mesh), VOCABULARY)
        for ids, pictures in samples:
            pixels = [(torch.from_numpy(p).permute(2, 0, 1).float() / 255 - mean) / std for p in pictures]
            shown = {"pixel_values": torch.stack(pixels)} if pixels else {}
            wanted.append(theirs.eval()(input_ids=torch.tensor([ids]), **shown).logits[0, :, :VOCABULARY])
    assert ours.abs().max() > 0.5 and (ours - torch.cat(wanted)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("kinds", "changes", "said"),
    [
        (("Siglip", "llama"), {}, "siglip_vision_model"),
        (("CLIP", "gemma"), {}, "CLIP and gemma"),
        (("CLIP", "llama"), {"projector": {"type": "resampler", "queries": 4, "heads": 4}}, "projector"),
    ],
)
def test_a_composition_of_no_family_is_not_exported(
    kinds: tuple[str, str], changes: dict[str, Any], said: str, squares: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    recipe = small_recipe(
        str(squares), **parts_of_run(encoder_of(folders[kinds[0]]), decoder_config(folders[kinds[1]]), **changes)
    )
    (tmp_path / "config.yaml").write_text(dump_recipe(recipe))
    with pytest.raises(UserError, match=f"no published family is a composition of .*{said}") as refused:
        home_of(tmp_path)
    assert "\n" not in str(refused.value) and "leave as LLaVA" in str(refused.value)


def test_a_visual_expert_begins_as_the_words_weights(folders: dict[str, Path]) -> None:
    made = dict(decoder_weights.tensors_of(decoder_config(folders["llama"], expert=True), VOCABULARY))
    pairs = [(name, name.replace(".expert.", ".")) for name in made if ".expert." in name]
    assert len(pairs) == 2 * 7 and all(torch.equal(made[a], made[b]) for a, b in pairs)


# ---- bad input ------------------------------------------------------------------------------------------------------


def refusal(config: ViT | DecoderConfig) -> str:
    with pytest.raises(UserError) as refused:
        if isinstance(config, ViT):
            list(encoder_weights.tensors_of(config))
        else:
            list(decoder_weights.tensors_of(config, VOCABULARY))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_settings_that_are_not_the_models_are_named_with_the_remedy(folders: dict[str, Path]) -> None:
    said = refusal(encoder_of(folders["CLIP"], depth=4, feature_layer=-2))
    assert said == (
        f"model.encoder does not describe {folders['CLIP']}: depth 4 (the file has 3); set model.encoder.depth: 3"
    )
    said = refusal(encoder_of(folders["Siglip"], class_token="drop"))
    assert "class_token drop (the file has none)" in said
    said = refusal(decoder_config(folders["qwen2"], qkv_bias=False, kv_heads=2))
    assert "kv_heads 2 (the file has 1), qkv_bias False (the file has True)" in said
    assert said.endswith("set model.decoder.kv_heads: 1")
    said = refusal(decoder_config(folders["opt"], max_length=99))
    assert "max_length 99 (the file has 160)" in said


def test_a_tower_is_no_language_model_and_the_other_way_round(folders: dict[str, Path], llava_folder: Path) -> None:
    assert "has model_type 'llama': a vision tower is one of clip" in refusal(
        encoder_of(folders["CLIP"], weights=str(folders["llama"]))
    )
    said = refusal(decoder_config(folders["llama"], weights=str(folders["CLIP"])))
    assert "language model of type 'clip'" in said
    assert "'llava'" in refusal(decoder_config(folders["llama"], weights=str(llava_folder)))


@pytest.mark.parametrize("part", ["CLIP", "llama"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", r" lacks "),
        ("extra", r" has extra.weight and 0 more tensors"),
        ("misshaped", r" of shape \(7,\), its config"),
    ],
)
def test_tensors_that_do_not_fit(part: str, change: str, said: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[part], tmp_path / "hf"))
    tensors = load_file(folder / "model.safetensors")
    name = next(
        name
        for name in sorted(tensors)
        if "layers.1." in name
        and name.endswith("mlp.fc1.weight" if part == "CLIP" else "up_proj.weight")
        and "text" not in name
    )
    if change == "missing":
        tensors.pop(name)
    elif change == "extra":
        tensors["extra.weight"] = torch.zeros(2)
    else:
        tensors[name] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors")
    assert re.search(said, refusal(encoder_of(folder) if part == "CLIP" else decoder_config(folder)))


def test_what_is_not_here_is_named_with_the_command(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKSAY_CACHE", str(tmp_path / "cache"))
    said = refusal(encoder_of(folders["CLIP"], weights="openai/clip-vit-large-patch14-336"))
    assert "model.encoder.weights openai/clip-vit-large-patch14-336 is no file or folder here" in said
    assert "run `looksay fetch openai/clip-vit-large-patch14-336` where there is a network" in said
    said = refusal(decoder_config(folders["llama"], weights="lmsys/vicuna-7b-v1.5@v1"))
    assert "looksay fetch lmsys/vicuna-7b-v1.5@v1" in said


def test_the_documented_recipe_is_the_published_models(tmp_path: Path) -> None:
    """docs/models.md, against the configurations of CLIP-L/14-336 and Vicuna-7B-v1.5 as published."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
    (tmp_path / "mine.yaml").write_text(re.findall(r"(?ms)^```yaml\n(.*?)^```", text)[0])
    model = load_recipe(str(tmp_path / "mine.yaml")).model
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    clip = {"model_type": "clip", "vision_config": vision | {"image_size": 336, "patch_size": 14}}
    require_alike("model.encoder", model.encoder, tower_of(clip, -2), encoder_weights.FREE, "CLIP")
    vicuna = {"vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    theirs = decoder_of(vicuna, "llama").model_copy(update={"kv_heads": None})
    require_alike("model.decoder", model.decoder, theirs, decoder_weights.FREE, "Vicuna")
    asked = [str(part) for part, _ in parts_of(load_recipe(str(tmp_path / "mine.yaml")))]
    assert asked == ["openai/clip-vit-large-patch14-336"]
