"""Every family trains here: freeze variants and rates by module, and ZeRO-3 x TP 2 between import and export."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import load_recipe
from configs.training import OptimConfig
from pretrain.exporting import export_run
from pretrain.importing import import_published
from pretrain.mesh import Mesh
from pretrain.model.linear import logical_of
from pretrain.optim import make_optimizer
from pretrain.stages import apply_stage
from tests.families.row import inputs_of, logits_of, open_row_model, samples
from tests.families.test_families import class_of, their_logits
from tests.families.tiny import FAMILIES, VOCABULARY, save
from tests.support.pool import Pool

VARIANTS = {
    "A": {"projector": 1e-3},
    "B": {"projector": 1e-3, "decoder": 1e-4},
    "C": {"projector": 1e-3, "decoder": 1e-4, "encoder": 1e-5},
    "last layer": {"decoder.layers[1:]": 1e-4},
}


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(name: str, transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(name)
    import_published(save(transformers, name, place / "hf"), place / "run", name, progress=False)
    return place / "run"


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_frozen_costs_nothing(variant: str, run: Path, mesh: Mesh) -> None:
    """Frozen parameters have no gradient and no optimizer state; a tower that nothing behind asks has no graph."""
    model, rates = open_row_model(run, mesh), VARIANTS[variant]
    optimizer = make_optimizer(apply_stage(model.net, rates), OptimConfig())
    graphs: list[bool] = []
    for part in ("encoder", "projector"):
        getattr(model.net, part).register_forward_hook(lambda m, i, found: graphs.append(found.requires_grad))
    logits_of(model, inputs_of(model, samples(), mesh), VOCABULARY).square().sum().backward()
    trained = {logical_of(p).name for p in model.net.parameters() if p.requires_grad}
    assert {logical_of(p).name for p in model.net.parameters() if p.grad is not None} == trained
    assert all(any(name.startswith(pattern.partition("[")[0]) for pattern in rates) for name in trained)
    assert graphs == ["encoder" in rates, "projector" in rates]
    optimizer.step()
    held = {logical_of(p).name for p in optimizer.state}
    assert held == trained
    rated = {logical_of(p).name: group["peak"] for group in optimizer.param_groups for p in group["params"]}
    assert all(rated[name] == rates[next(r for r in rates if name.startswith(r.partition("[")[0]))] for name in held)


def test_trained_here_it_leaves_for_transformers(
    name: str, pool: Pool, squares: Path, run: Path, mesh: Mesh, transformers: Any, tmp_path: Path
) -> None:
    """Two steps under ZeRO-3 x TP 2 from the imported weights, then the same logits on either side."""
    recipe: Any = load_recipe(str(run / "config.yaml"))
    tree = json.loads(json.dumps(recipe.model.model_dump(mode="json")))
    parts = {
        "model": tree | ({"resolution": FAMILIES[name].trained_at} if FAMILIES[name].trained_at else {}),
        "stage": {
            "steps": 2,
            "start_from": str(run),
            "train": {"projector": 3e-3, "decoder": 1e-3, "encoder": 3e-4},
        },
        "parallel": {"zero": 3, "precision": "fp32", "tp": 2},
        "log": {"to": []},
    }
    world = {"world": str(squares), "run": str(tmp_path / "run"), "parts": parts}
    for result in pool.run("tests.pretrain.training_cases:trained", 2, 2, **world):
        assert (result["did"], result["refused"]) == (2, None)
    export_run(str(tmp_path / "run"), tmp_path / "out", progress=False)
    theirs = class_of(transformers, tmp_path / "out").from_pretrained(tmp_path / "out", attn_implementation="eager")
    source = open_row_model(run, mesh)
    with torch.no_grad():
        before = logits_of(source, inputs_of(source, samples(), mesh), VOCABULARY)
        trained = open_row_model(tmp_path / "run", mesh)
        ours = logits_of(trained, inputs_of(source, samples(), mesh), VOCABULARY)
        wanted = torch.cat([their_logits(name, source, theirs.eval(), sample) for sample in samples()])
    assert (ours - wanted).abs().max() <= 1e-5
    assert (ours - before).abs().max() > 1e-3
