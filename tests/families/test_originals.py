"""LLaVA v1, Yi-VL, Qwen-VL and CogVLM, in and out of their published layout: parity with independent references."""

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from configs.load import load_recipe
from pretrain.exporting import export_run
from pretrain.generate import Generator, Prompt
from pretrain.importing import import_published
from pretrain.mesh import Mesh
from pretrain.model.hf.families import family_of, match
from pretrain.model.hf.published import Published
from pretrain.model.hf.rules import Rule
from pretrain.model.linear import logical_of
from tests.families.originals import FITS, ORIGINALS, TEMPLATES, VOCABULARY, given, load, save
from tests.families.row import Model, inputs_of, logits_of, open_row_model, samples
from tests.families.test_training import test_what_is_frozen_costs_nothing  # noqa: F401  # with this module's runs
from tests.support.pool import Pool


def unseen(rule: Rule) -> bool:
    """A key's bias adds the same to all scores of a query, which softmax does not see; Qwen's is turned by the position."""
    return rule.ours.endswith(".k.bias") and not rule.ours.startswith("decoder.")


@pytest.fixture(scope="module", params=ORIGINALS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(name, tmp_path_factory.mktemp(name) / "hf")


@pytest.fixture(scope="module")
def run(name: str, folder: Path) -> Path:
    import_published(folder, folder.parent / "run", name, progress=False)
    return folder.parent / "run"


@pytest.fixture(scope="module")
def ours(run: Path, mesh: Mesh) -> Model:
    return open_row_model(run, mesh)


@pytest.fixture(scope="module")
def theirs(name: str, folder: Path) -> nn.Module:
    return load(name, folder)


def their_logits(name: str, ours: Model, theirs: nn.Module) -> Tensor:
    """Of each sample alone, one behind the other."""
    return torch.cat([ORIGINALS[name].logits(theirs, *given(ours, sample)) for sample in samples()])


@pytest.mark.parametrize("backend", ["padded", "segments", "dense"])
def test_logits_of_a_packed_row(backend: str, name: str, ours: Model, theirs: nn.Module, mesh: Mesh) -> None:
    """fp32, three samples in one row against each alone."""
    with torch.no_grad():
        found = logits_of(ours, inputs_of(ours, samples(), mesh, backend), VOCABULARY)
        wanted = their_logits(name, ours, theirs)
    assert wanted.abs().max() > 1
    assert (found - wanted).abs().max() <= 1e-5


def test_gradients(name: str, ours: Model, theirs: nn.Module, folder: Path, mesh: Mesh) -> None:
    """Of a random weighting of all logits, every tensor: relative to its norm within 1e-4."""
    net = ours.net
    net.zero_grad()
    found = logits_of(ours, inputs_of(ours, samples(), mesh), VOCABULARY)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    theirs.zero_grad()
    (their_logits(name, ours, theirs) * weights).sum().backward()
    gradients = {logical_of(p).name: p.grad for p in net.parameters()}
    named = dict(theirs.named_parameters())
    for rule, published in match(Published(folder)).pairs:
        if unseen(rule):
            continue
        mine, grad = gradients[rule.ours], named[published].grad
        assert mine is not None and grad is not None and grad.norm() > 0, rule.ours
        wanted = rule.take(grad)
        assert (mine - wanted).norm() <= 1e-4 * wanted.norm(), rule.ours


def test_every_published_tensor_matters(ours: Model, folder: Path, mesh: Mesh) -> None:
    """Each source tensor disturbed and taken anew moves our logits."""
    published = Published(folder)
    matched = match(published)
    inputs = inputs_of(ours, samples(), mesh)
    by_name = {logical_of(p).name: p for p in ours.net.parameters()}
    assert by_name.keys() == {rule.ours for rule, _ in matched.pairs}
    with torch.no_grad():
        before = logits_of(ours, inputs, VOCABULARY)
        for rule, source in matched.pairs:
            tensor, parameter = published.tensor(source), by_name[rule.ours]
            kept = parameter.clone()
            noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2))
            parameter.copy_(rule.take(tensor + 0.3 * noise))
            changed = (logits_of(ours, inputs, VOCABULARY) - before).abs().max()
            assert changed < 1e-4 if unseen(rule) else changed > 1e-3, rule.ours
            parameter.copy_(kept)


def test_greedy_answers_after_export(name: str, ours: Model, run: Path, mesh: Mesh, tmp_path: Path) -> None:
    """64 tokens behind a prompt with two pictures: our KV cache against the reference on the exported folder."""
    export_run(str(run), tmp_path / "out", progress=False)
    sample = samples()[1]
    wanted = ORIGINALS[name].greedy(load(name, tmp_path / "out"), *given(ours, sample, prompt=True), 64)
    chat: Any = types.SimpleNamespace(pad_id=0, end_id=-1, vocab_size=VOCABULARY, decode=lambda ids: "")
    cut = int(sample.encoded.labels.sum())
    prompt = Prompt(sample.encoded.truncated(sample.encoded.text_tokens - cut), sample.sizes, images=sample.images)
    [made] = Generator(ours.net, chat, ours.geometry, mesh).answer([prompt], 64)
    assert made.ids == wanted and len(set(wanted)) > 5


def test_tensor_parallel_is_the_same(pool: Pool, run: Path) -> None:
    """fp32: three heads of the tower stay whole; Yi-VL's one KV head is shared."""
    arguments = {"run": str(run), "vocabulary": VOCABULARY}
    [whole] = pool.run("tests.families.row:whole_row_logits", 1, **arguments)
    for found in pool.run("tests.families.row:whole_row_logits", 2, 2, **arguments):
        np.testing.assert_allclose(found, whole, atol=1e-5)


def test_out_is_what_came_in(folder: Path, run: Path, tmp_path: Path) -> None:
    """Tensors, and every file with settings, that of a tower in a folder inside too."""
    out = tmp_path / "out"
    export_run(str(run), out, progress=False)
    came, went = (load_file(place / "model.safetensors") for place in (folder, out))
    assert came.keys() == went.keys() and all(torch.equal(came[key], went[key]) for key in came)
    settings = [path.relative_to(folder) for path in folder.rglob("*.json")]
    assert settings and all((out / path).read_bytes() == (folder / path).read_bytes() for path in settings)


def test_pictures_and_template_are_the_familys(name: str, ours: Model, folder: Path) -> None:
    resolution: Any = ours.config.resolution
    assert (resolution.type, resolution.size, resolution.fit) == ("square", *FITS[name])
    assert family_of(Published(folder).config, "config.json").template == TEMPLATES[name]


def test_trained_here_it_leaves_for_its_own_code(
    name: str, pool: Pool, squares: Path, run: Path, mesh: Mesh, tmp_path: Path
) -> None:
    """Two steps under ZeRO-3 x TP 2 at a rate for each part, then the same logits on either side."""
    recipe: Any = load_recipe(str(run / "config.yaml"))
    parts = {
        "model": recipe.model.model_dump(mode="json"),
        "stage": {
            "steps": 2,
            "start_from": str(run),
            "train": {"encoder": 0.002, "projector": 0.01, "decoder": 0.005},
        },
        "parallel": {"zero": 3, "precision": "fp32", "tp": 2},
        "log": {"to": []},
    }
    after, out = tmp_path / "run", tmp_path / "out"
    arguments = {"world": str(squares), "run": str(after), "parts": parts}
    for result in pool.run("tests.pretrain.training_cases:trained", 4, 2, **arguments):
        assert (result["did"], result["refused"]) == (2, None)
    export_run(str(after), out, progress=False)
    trained = open_row_model(after, mesh)
    with torch.no_grad():
        found = logits_of(trained, inputs_of(trained, samples(), mesh), VOCABULARY)
        wanted = their_logits(name, trained, load(name, out))
    assert (found - wanted).abs().max() <= 1e-5
    came, went = (load_file(place / "model.safetensors") for place in (run.parent / "hf", out))
    moved = {rule.ours: not torch.equal(came[source], went[source]) for rule, source in match(Published(out)).pairs}
    assert {part for ours, did in moved.items() if did for part in [ours.partition(".")[0]]} == {
        "encoder",
        "projector",
        "decoder",
    }
