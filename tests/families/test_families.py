"""Every family that transformers has a class for: parity in logits, gradients and greedy answers; in and out; TP."""

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data_pipeline.stream.collate import Ready
from pretrain.exporting import export_run
from pretrain.generate import Generator, Prompt
from pretrain.importing import import_published
from pretrain.mesh import Mesh
from pretrain.model.hf.families import family_of, match
from pretrain.model.hf.published import Published
from pretrain.model.linear import logical_of
from tests.families.published import IMAGE
from tests.families.row import Model, batch_of, inputs_of, logits_of, open_row_model, samples, views_of
from tests.families.tiny import FAMILIES, VOCABULARY, save
from tests.support.pool import Pool


def unseen(model: Model, name: str) -> bool:
    """A key's bias adds the same to all scores of a query: softmax does not see it, its gradient is rounding. Unless it is rotated."""
    turned = {
        "encoder": model.config.encoder.type == "native_vit",
        "decoder": model.config.decoder.positions != "learned",
    }
    return name.endswith(".k.bias") and not turned.get(name.partition(".")[0], False)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(transformers, name, tmp_path_factory.mktemp(name) / "hf")


@pytest.fixture(scope="module")
def run(name: str, folder: Path) -> Path:
    import_published(folder, folder.parent / "run", name, progress=False)
    return folder.parent / "run"


@pytest.fixture(scope="module")
def ours(run: Path, mesh: Mesh) -> Model:
    return open_row_model(run, mesh)


@pytest.fixture(scope="module")
def theirs(transformers: Any, folder: Path) -> Any:
    return class_of(transformers, folder).from_pretrained(folder, attn_implementation="eager").eval()


def class_of(transformers: Any, folder: Path) -> Any:
    return getattr(transformers, Published(folder).config["architectures"][0])


def given(name: str, model: Model, config: dict[str, Any], sample: Ready, prompt: bool = False) -> dict[str, Tensor]:
    """One sample as arguments of the class's forward; `prompt`: what comes before the learned part alone."""
    batch = batch_of(model.geometry, [sample])
    arguments: dict[str, Any] = {"input_ids": torch.from_numpy(batch.ids)}
    if sample.images:
        arguments |= FAMILIES[name].pixels(batch, views_of(model, batch), list(sample.sizes), config)
    if model.geometry.prefix:
        prefix = int(batch.segments[0, 1])
        arguments["token_type_ids"] = (torch.arange(batch.ids.shape[1]) >= prefix).long()[None]
    if prompt:
        cut = batch.ids.shape[1] - int(sample.encoded.labels.sum())
        for key in ("input_ids", "token_type_ids", "mm_token_type_ids"):
            if key in arguments:
                arguments[key] = arguments[key][:, :cut]
        arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
    return arguments


def their_logits(name: str, model: Model, theirs: Any, sample: Ready) -> Tensor:
    if not sample.images and name == "blip2":  # its forward wants a picture
        text: Tensor = theirs.language_model(input_ids=torch.from_numpy(sample.encoded.ids)[None]).logits[0]
        return text
    found: Tensor = theirs(**given(name, model, theirs.config.to_dict(), sample)).logits[0]
    return found


def short_names(theirs: Any, folder: Path) -> dict[str, Tensor]:
    family = family_of(Published(folder).config, "config.json")
    return {family.normalised(key): value for key, value in theirs.named_parameters()}


@pytest.mark.parametrize("backend", ["padded", "segments", "dense"])
def test_logits_of_a_packed_row(backend: str, name: str, ours: Model, theirs: Any, mesh: Mesh) -> None:
    """fp32, three samples in one row against each alone."""
    packed = samples()
    with torch.no_grad():
        found = logits_of(ours, inputs_of(ours, packed, mesh, backend), VOCABULARY)
        wanted = torch.cat([their_logits(name, ours, theirs, sample) for sample in packed])
    assert wanted.abs().max() > 1
    assert (found - wanted).abs().max() <= 1e-5


def test_gradients(name: str, ours: Model, theirs: Any, folder: Path, mesh: Mesh) -> None:
    """Of a random weighting of all logits, every tensor: relative to its norm within 1e-4."""
    packed, net = samples(), ours.net
    net.zero_grad()
    found = logits_of(ours, inputs_of(ours, packed, mesh), VOCABULARY)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    theirs.zero_grad()
    (torch.cat([their_logits(name, ours, theirs, sample) for sample in packed]) * weights).sum().backward()
    gradients = {logical_of(p).name: p.grad for p in net.parameters()}
    named = short_names(theirs, folder)
    for rule, _ in match(Published(folder)).pairs:
        if unseen(ours, rule.ours):
            continue
        mine, wanted = gradients[rule.ours], rule.take(named[rule.theirs].grad)
        assert mine is not None and wanted.norm() > 0, rule.ours
        assert (mine - wanted).norm() <= 1e-4 * wanted.norm(), rule.ours


def test_every_published_tensor_matters(ours: Model, folder: Path, mesh: Mesh) -> None:
    matched = match(Published(folder))
    inputs = inputs_of(ours, samples(), mesh)
    by_name = {logical_of(p).name: p for p in ours.net.parameters()}
    assert by_name.keys() == {rule.ours for rule, _ in matched.pairs}
    with torch.no_grad():
        before = logits_of(ours, inputs, VOCABULARY)
        for rule, _ in matched.pairs:
            parameter, kept = by_name[rule.ours], by_name[rule.ours].clone()
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            changed = (logits_of(ours, inputs, VOCABULARY) - before).abs().max()
            parameter.copy_(kept)
            assert changed < 1e-4 if unseen(ours, rule.ours) else changed > 1e-3, rule.ours


def test_greedy_answers_after_export(name: str, mesh: Mesh, transformers: Any, tmp_path: Path) -> None:
    """64 tokens behind a prompt with two pictures: our KV cache against `generate` of the exported folder.

    Tensors are larger than elsewhere: the answer of a quieter random model is one token for ever.
    """
    import_published(save(transformers, name, tmp_path / "hf", spread=0.4), tmp_path / "run", name, progress=False)
    export_run(str(tmp_path / "run"), tmp_path / "out", progress=False)
    ours = open_row_model(tmp_path / "run", mesh)
    theirs = class_of(transformers, tmp_path / "out").from_pretrained(tmp_path / "out", attn_implementation="eager")
    sample = samples()[1]
    arguments = given(name, ours, theirs.config.to_dict(), sample, prompt=True)
    said = theirs.eval().generate(
        **arguments, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0, suppress_tokens=[IMAGE]
    )
    wanted = said[0].tolist()[-64:]
    # The image token is the last id: a vocabulary without it never says it.
    chat: Any = types.SimpleNamespace(pad_id=0, end_id=-1, vocab_size=IMAGE, decode=lambda ids: "")
    cut = int(sample.encoded.labels.sum())
    prompt = Prompt(sample.encoded.truncated(sample.encoded.text_tokens - cut), sample.sizes, images=sample.images)
    [made] = Generator(ours.net, chat, ours.geometry, mesh).answer([prompt], 64)
    assert made.ids == wanted
    assert len(set(wanted)) > 5


def test_tensor_parallel_is_the_same(pool: Pool, run: Path) -> None:
    """fp32: three heads of the encoder stay whole, the one KV head is shared."""
    arguments = {"run": str(run), "vocabulary": VOCABULARY}
    [whole] = pool.run("tests.families.row:whole_row_logits", 1, **arguments)
    for found in pool.run("tests.families.row:whole_row_logits", 2, 2, **arguments):
        np.testing.assert_allclose(found, whole, atol=1e-5)


def test_out_is_what_came_in(folder: Path, run: Path, tmp_path: Path, transformers: Any) -> None:
    export_run(str(run), tmp_path / "out", progress=False)
    family = family_of(Published(folder).config, "config.json")
    came, went = (
        {family.normalised(k): v for k, v in load_file(place / "model.safetensors").items()}
        for place in (folder, tmp_path / "out")
    )
    assert came.keys() == went.keys() and all(torch.equal(came[key], went[key]) for key in came)
    kind = class_of(transformers, folder)
    _, told = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
