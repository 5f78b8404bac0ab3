"""Folders of LLaVA v1, Yi-VL, Qwen-VL and CogVLM: names and shapes at published size, older files, other models."""

import json
import types
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.errors import UserError
from configs.model import ModelConfig
from pretrain.exporting import export_run
from pretrain.importing import import_published
from pretrain.model.hf.families import family_of, match
from pretrain.model.linear import Builder, logical_of
from pretrain.model.vlm import VisionLanguageModel
from tests.families.originals import ORIGINALS, save, tower_of


def sized(name: str) -> Any:
    """What a folder with the published configuration would hold, names and shapes only."""
    module = ORIGINALS[name]
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in module.make(module.PUBLISHED).state_dict().items()}
    return types.SimpleNamespace(
        folder=Path("published"), config=module.PUBLISHED, names=sorted(shapes), shape=shapes.__getitem__
    )


def built(model: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, ...]]:
    """Our own tensors of a composition, without memory."""
    monkeypatch.setattr(Builder, "draw", lambda self, name, shape, std: torch.empty(shape, device="meta"))
    with torch.device("meta"):
        build = Builder(0, 0, 1, torch.float32, torch.device("meta"))
        net = VisionLanguageModel(model, 1, build, torch.float32)
    assert all(p.is_meta for p in net.parameters())
    return {logical_of(p).name: tuple(p.shape) for p in net.parameters()}


@pytest.mark.parametrize("name", ORIGINALS)
def test_published_names_and_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each published tensor is covered by rules to its last row, and each of ours is filled by one."""
    published = sized(name)
    matched = match(published)
    rows: dict[str, list[int]] = defaultdict(list)
    for rule, source in matched.pairs:
        rows[source] += replace(rule, forth=lambda x: x).take(torch.arange(rule.published[0])).tolist()
    assert sorted(rows) + sorted(matched.aside) == sorted(published.names, key=lambda n: (n in matched.aside, n))
    for source, covered in rows.items():
        assert sorted(covered) == list(range(published.shape(source)[0])), source
    assert built(matched.model, monkeypatch) == {rule.ours: rule.shape for rule, _ in matched.pairs}


@pytest.mark.parametrize(
    ("name", "unsaid"),
    [
        ("llava1", ["mm_projector_type", "mm_vision_select_layer"]),
        ("yi_vl", ["mm_vision_select_layer", "mm_vision_select_feature", "rope_scaling"]),
        ("qwen_vl", [key for key in ORIGINALS["qwen_vl"].PUBLISHED if key not in ("model_type", "visual")]),
        ("cogvlm", ["vision_config", "auto_map", "hidden_act"]),
    ],
)
def test_what_a_configuration_does_not_say_is_as_published(name: str, unsaid: list[str]) -> None:
    whole = ORIGINALS[name].PUBLISHED
    family = family_of(whole, "config.json")
    silent = {key: value for key, value in whole.items() if key not in unsaid}
    assert family_of(silent, "config.json") is family and family.model_of(silent) == family.model_of(whole)
    # A tower whose own configuration is not there is known by its name.
    told = whole | {"vision_config": tower_of(name, whole) or whole.get("vision_config")}
    assert family.model_of(told) == family.model_of(whole)


def changed(name: str, folder: Path, config: dict[str, Any], tensors: dict[str, Tensor | None]) -> Path:
    """A family's tiny folder with other keys and tensors; None takes one away."""
    save(name, folder)
    for path, more in ((folder / "config.json", config), (folder / "model.safetensors", tensors)):
        found: dict[str, Any] = json.loads(path.read_text()) if path.suffix == ".json" else load_file(path)
        found = {key: value for key, value in (found | more).items() if value is not None}  # type: ignore[operator]
        if path.suffix == ".json":
            path.write_text(json.dumps(found))
        else:
            save_file(found, path)
    return folder


@pytest.mark.parametrize(
    ("name", "config", "tables"),
    [
        # LLaVA's first files: a linear projector without saying so.
        ("llava1", {"mm_projector_type": None, "rope_theta": None}, ["model.layers.1.self_attn.rotary_emb.inv_freq"]),
        ("yi_vl", {}, ["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"]),
        ("qwen_vl", {"rotary_pct": None}, ["transformer.rotary_emb.inv_freq"]),
        ("cogvlm", {"auto_map": None}, ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
        ("cogvlm", {"architectures": None, "model_type": "cogvlm"}, []),
    ],
)
def test_what_older_code_saved_is_kept(name: str, config: dict[str, Any], tables: list[str], tmp_path: Path) -> None:
    """Tables that are computed anew, integers too, leave as they came."""
    table = torch.arange(4)
    folder = changed(name, tmp_path / "hf", config, dict.fromkeys(tables, table))
    import_published(folder, tmp_path / "run", name, progress=False)
    export_run(str(tmp_path / "run"), tmp_path / "out", progress=False)
    came, went = (load_file(tmp_path / place / "model.safetensors") for place in ("hf", "out"))
    assert came.keys() == went.keys() and all(torch.equal(came[key], went[key]) for key in came)
    assert all(torch.equal(went[key], table) for key in tables)


TOWER = "model.vision_tower.vision_tower.vision_model."


@pytest.mark.parametrize(
    ("name", "config", "tensors", "said"),
    [
        ("llava1", {}, {TOWER + "pre_layrnorm.weight": None}, "LLaVA's first files leave CLIP out"),
        ("llava1", {"mm_projector_type": "mlp2x_gelu"}, {}, "lacks model.mm_projector.0.weight"),
        ("yi_vl", {"mm_projector_type": "resampler"}, {}, "mm_projector_type 'resampler'"),
        ("yi_vl", {"mm_vision_tower": "somewhere/vit"}, {}, "'somewhere/vit', whose sizes are not known"),
        ("yi_vl", {"mm_vision_select_feature": "cls_patch"}, {}, "mm_vision_select_feature 'cls_patch'"),
        ("qwen_vl", {"visual": None}, {}, "model_type 'qwen'.*Qwen-VL"),
        ("qwen_vl", {}, {"transformer.visual.attn_pool.pos_embed": None}, "lacks transformer.visual.attn_pool.pos_em"),
        ("qwen_vl", {"visual": {**ORIGINALS["qwen_vl"].TINY["visual"], "width": 32}}, {}, "as wide as its language"),
        ("qwen_vl", {"hidden_size": 24}, {}, "output_dim 32"),
        ("cogvlm", {"num_multi_query_heads": 2}, {}, "num_multi_query_heads 2"),
        ("cogvlm", {}, {"model.vision.boi": torch.zeros(1, 32)}, "model.vision.boi of shape"),
        ("cogvlm", {}, {"model.vision.conv.weight": torch.zeros(1)}, "model.vision.conv.weight and 0 more"),
    ],
)
def test_another_model_is_refused(
    name: str, config: dict[str, Any], tensors: dict[str, Tensor | None], said: str, tmp_path: Path
) -> None:
    folder = changed(name, tmp_path / "hf", config, tensors)
    with pytest.raises(UserError, match=said):
        import_published(folder, tmp_path / "run", name, progress=False)
    assert not (tmp_path / "run").exists()
