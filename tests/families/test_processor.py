"""What an import takes from the published image processor and chat template, as transformers writes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.load import load_recipe
from pretrain.importing import import_published
from tests.families.tiny import save

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "blip2": ("BlipImageProcessor", {"size": {"height": 42, "width": 42}}, {"fit": "stretch", "filter": "bicubic"}),
    "paligemma": ("SiglipImageProcessor", {"size": {"height": 42, "width": 42}, "resample": 2}, {"filter": "bilinear"}),
    "qwen2_vl": (
        "Qwen2VLImageProcessor",
        {"min_pixels": 4 * 28**2, "max_pixels": 300 * 28**2},
        {"min_tokens": 4, "max_tokens": 300},
    ),
    "internvl": ("GotOcr2ImageProcessor", {"min_patches": 2, "max_patches": 6}, {"min_tiles": 2, "max_tiles": 6}),
    "idefics3": (
        "Idefics3ImageProcessor",
        {"size": {"longest_edge": 168}, "max_image_size": {"longest_edge": 56}},
        {"size": 56, "longest": 168},
    ),
    "smolvlm": (
        "SmolVLMImageProcessor",
        {"size": {"longest_edge": 168}, "max_image_size": {"longest_edge": 56}, "do_image_splitting": False},
        {"size": 56, "longest": 56},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_settings_of_the_image_processor(name: str, transformers: Any, tmp_path: Path) -> None:
    kind, given, wanted = CASES[name]
    folder = save(transformers, name, tmp_path / "hf")
    getattr(transformers, kind)(image_mean=MEAN, image_std=STD, **given).save_pretrained(folder)
    import_published(folder, tmp_path / "run", name, progress=False)
    model = load_recipe(str(tmp_path / "run" / "config.yaml")).model_dump()["model"]
    assert {key: model["resolution"][key] for key in wanted} == wanted
    assert (list(model["encoder"]["pixel_mean"]), list(model["encoder"]["pixel_std"])) == (MEAN, STD)


@pytest.mark.parametrize(
    ("crop", "fit"), [({}, "crop"), ({"do_center_crop": False, "do_pad": True}, "pad")], ids=["cropped", "padded"]
)
def test_llava(crop: dict[str, bool], fit: str, transformers: Any, llava_folder: Path, tmp_path: Path) -> None:
    """LLaVA-1.5's published processor cuts the middle out; one that pads is followed too."""
    import shutil

    folder = Path(shutil.copytree(llava_folder, tmp_path / "hf"))
    kind = transformers.CLIPImageProcessor if not crop else transformers.LlavaImageProcessor
    kind(size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42}, **crop).save_pretrained(folder)
    import_published(folder, tmp_path / "run", "llava", progress=False)
    recipe: Any = load_recipe(str(tmp_path / "run" / "config.yaml"))
    assert recipe.model.resolution.fit == fit
    assert recipe.data.template.user == "USER: "


@pytest.mark.parametrize(
    ("chat", "user"),
    [("", "USER: "), ("{{ '[INST] ' }}", "[INST] "), ("<|im_start|>", "<|im_start|>user\n")],
)
def test_the_chat_template_decides_where_a_family_has_several(
    chat: str, user: str, transformers: Any, tmp_path: Path
) -> None:
    folder = save(transformers, "llava_next", tmp_path / "hf")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": chat}))
    import_published(folder, tmp_path / "run", "x", progress=False)
    recipe: Any = load_recipe(str(tmp_path / "run" / "config.yaml"))
    assert recipe.data.template.user == user


def test_an_image_processor_that_cannot_be(transformers: Any, tmp_path: Path) -> None:
    folder = save(transformers, "internvl", tmp_path / "hf")
    (folder / "preprocessor_config.json").write_text(json.dumps({"min_patches": 9, "max_patches": 6}))
    with pytest.raises(UserError, match="min_tiles 9 is above max_tiles 6"):
        import_published(folder, tmp_path / "run", "x", progress=False)
    assert not (tmp_path / "run").exists()
