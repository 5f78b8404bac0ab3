"""The four families without a class in transformers: tiny folders as they are published, and their references."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_pipeline.stream.collate import Ready
from tests.families import reference_cogvlm, reference_llava1, reference_qwen_vl, reference_yi_vl
from tests.families.reference_parts import RMSNorm
from tests.families.row import Model, batch_of, views_of

ORIGINALS: dict[str, ModuleType] = {
    "cogvlm": reference_cogvlm,
    "llava1": reference_llava1,
    "qwen_vl": reference_qwen_vl,
    "yi_vl": reference_yi_vl,
}
VOCABULARY: int = reference_llava1.TINY["vocab_size"]
TEMPLATES = {"cogvlm": "cogvlm", "llava1": "vicuna", "qwen_vl": "qwen_vl", "yi_vl": "yi_vl"}
FITS = {"cogvlm": (42, "stretch"), "llava1": (42, "crop"), "qwen_vl": (56, "stretch"), "yi_vl": (42, "pad")}
"""Pixels along a side of the tiny ones, and how each family's own code makes a picture square."""

BUILT, SPREAD = 0.2, 0.12
"""Of the tensors. With it the references' fp32 logits lie within 5e-6 of their own in fp64, and ours within 3e-6; at the 0.2 that
they are built with, CogVLM's own lie 5e-5 off (ours 2e-5)."""


def tower_of(name: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """config.json of what `mm_vision_tower` names."""
    towers = getattr(ORIGINALS[name], "TOWERS", None)
    return None if towers is None else towers[config["mm_vision_tower"]]


def save(name: str, folder: Path, seed: int = 5) -> Path:
    """Write a family's tiny model as it is published: Yi-VL's tower has its folder inside, LLaVA's is put beside."""
    module = ORIGINALS[name]
    tower = tower_of(name, module.TINY)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(module.TINY))
    if tower is not None:
        inside = folder / (module.TINY["mm_vision_tower"] if name == "yi_vl" else "vision_tower")
        inside.mkdir(parents=True)
        (inside / "config.json").write_text(json.dumps(tower))
    model = module.build(module.TINY, seed)
    for part in model.modules():
        for key, parameter in part.named_parameters(recurse=False):
            near = float(isinstance(part, nn.LayerNorm | RMSNorm) and key == "weight")
            parameter.data = near + (parameter.data - near) * SPREAD / BUILT
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def load(name: str, folder: Path) -> nn.Module:
    """The reference with a folder's tensors: every one of them, and no other."""
    module = ORIGINALS[name]
    model: nn.Module = module.make(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def given(model: Model, sample: Ready, prompt: bool = False) -> tuple[list[int], list[Tensor]]:
    """One sample as the reference takes it; `prompt`: what comes before the learned part alone."""
    batch = batch_of(model.geometry, [sample])
    ids = batch.ids[0].tolist()
    if prompt:
        ids = ids[: len(ids) - int(sample.encoded.labels.sum())]
    return ids, list(views_of(model, batch)) if sample.images else []
