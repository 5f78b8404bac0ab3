"""LLaVA-1.5: parity with transformers in logits, gradients and greedy answers; in and out; TP; bad folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import DONE, USAGE, UserError
from pretrain.cli.main import main
from pretrain.exporting import export_run
from pretrain.importing import import_published
from pretrain.mesh import Mesh
from pretrain.model.hf.families import match
from pretrain.model.hf.llava import FAMILY
from pretrain.model.hf.published import Published
from pretrain.model.linear import logical_of
from tests.families.ours import inputs_of, logits_of, open_model, samples_of
from tests.families.published import CELLS, IMAGE, TEXT, VISION, save_llava
from tests.support.pool import Pool

PATCH, SIDE, VOCABULARY = VISION["patch_size"], VISION["image_size"], TEXT["vocab_size"]
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.fixture(scope="module")
def theirs(transformers: Any, llava_folder: Path) -> Any:
    return transformers.LlavaForConditionalGeneration.from_pretrained(llava_folder, attn_implementation="eager").eval()


def pixels(pictures: list[np.ndarray]) -> torch.Tensor | None:
    """As CLIP's processor scales them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in CLIP)
    scaled = [(torch.from_numpy(p).permute(2, 0, 1).float() / 255 - mean) / std for p in pictures]
    return torch.stack(scaled) if scaled else None


def their_logits(model: Any, sample: tuple[list[int], list[np.ndarray]]) -> torch.Tensor:
    ids, pictures = sample
    return model(
        input_ids=torch.tensor([ids]), pixel_values=pixels(pictures), attention_mask=torch.ones(1, len(ids))
    ).logits[0]


@pytest.mark.parametrize("backend", ["padded", "segments", "dense"])
def test_logits_of_a_packed_row(mesh: Mesh, theirs: Any, llava_run: Path, backend: str) -> None:
    """fp32, |logits| up to 6: measured within 3e-6."""
    samples = samples_of(IMAGE, CELLS, SIDE)
    with torch.no_grad():
        ours = logits_of(open_model(llava_run, mesh), inputs_of(samples, IMAGE, PATCH, mesh, backend), VOCABULARY)
        wanted = torch.cat([their_logits(theirs, sample) for sample in samples])
    assert wanted.abs().max() > 1
    assert (ours - wanted).abs().max() <= 1e-5


def test_gradients(mesh: Mesh, theirs: Any, llava_folder: Path, llava_run: Path) -> None:
    """Of a random weighting of all logits, every tensor: relative to its norm within 1e-4 (measured 2e-6)."""
    samples, net = samples_of(IMAGE, CELLS, SIDE), open_model(llava_run, mesh)
    ours = logits_of(net, inputs_of(samples, IMAGE, PATCH, mesh), VOCABULARY)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    theirs.zero_grad()
    (torch.cat([their_logits(theirs, sample) for sample in samples]) * weights).sum().backward()
    found = {logical_of(p).name: p.grad for p in net.parameters()}
    named = {FAMILY.normalised(name): parameter for name, parameter in theirs.named_parameters()}
    for rule, _ in match(Published(llava_folder)).pairs:
        mine, wanted = found[rule.ours], rule.take(named[rule.theirs].grad)
        assert mine is not None and wanted.norm() > 0, rule.ours
        if rule.ours.endswith((".k.bias",)):  # softmax does not see it: its gradient is rounding
            continue
        assert (mine - wanted).norm() <= 1e-4 * wanted.norm(), rule.ours


def test_every_published_tensor_matters(mesh: Mesh, llava_folder: Path, llava_run: Path) -> None:
    net, matched = open_model(llava_run, mesh), match(Published(llava_folder))
    inputs = inputs_of(samples_of(IMAGE, CELLS, SIDE), IMAGE, PATCH, mesh)
    by_name = {logical_of(p).name: p for p in net.parameters()}
    assert by_name.keys() == {rule.ours for rule, _ in matched.pairs}
    with torch.no_grad():
        before = logits_of(net, inputs, VOCABULARY)
        for rule, _ in matched.pairs:
            parameter, kept = by_name[rule.ours], by_name[rule.ours].clone()
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            changed = (logits_of(net, inputs, VOCABULARY) - before).abs().max()
            # A key's bias adds the same to all scores of a query: nothing may change but rounding.
            assert changed < 1e-4 if rule.ours.endswith(".k.bias") else changed > 1e-3, rule.ours
            parameter.copy_(kept)


def test_greedy_answers(mesh: Mesh, theirs: Any, llava_run: Path) -> None:
    """64 tokens behind a prompt with a picture, the same one by one."""
    net, (ids, pictures) = open_model(llava_run, mesh), samples_of(IMAGE, CELLS, SIDE)[0]
    wanted = theirs.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        pixel_values=pixels(pictures),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        suppress_tokens=[IMAGE],
    )[0, len(ids) :].tolist()
    said = list(ids)
    with torch.no_grad():
        for _ in range(64):
            last = logits_of(net, inputs_of([(said, pictures)], IMAGE, PATCH, mesh), VOCABULARY)[-1]
            last[IMAGE] = -torch.inf
            said.append(int(last.argmax()))
    assert said[len(ids) :] == wanted and len(set(wanted)) > 5


def test_tensor_parallel_is_the_same(pool: Pool, llava_run: Path) -> None:
    """Three heads of the encoder stay whole, the KV head is shared. fp32: measured within 3e-6."""
    arguments = {
        "run": str(llava_run),
        "image": IMAGE,
        "cells": CELLS,
        "side": SIDE,
        "patch": PATCH,
        "vocabulary": VOCABULARY,
    }
    [alone_] = pool.run("tests.families.ours:whole_logits", 1, **arguments)
    for found in pool.run("tests.families.ours:whole_logits", 2, 2, **arguments):
        np.testing.assert_allclose(found, alone_, atol=1e-5)


def test_out_is_what_came_in(llava_folder: Path, llava_run: Path, tmp_path: Path, transformers: Any) -> None:
    export_run(str(llava_run), tmp_path / "out", progress=False)
    came, went = (
        {FAMILY.normalised(k): v for k, v in load_file(folder / "model.safetensors").items()}
        for folder in (llava_folder, tmp_path / "out")
    )
    assert came.keys() == went.keys() and all(torch.equal(came[name], went[name]) for name in came)
    _, told = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]


@pytest.mark.parametrize("variant", ["A", "B", "C"])
def test_trained_here_it_leaves_for_transformers(
    variant: str, pool: Pool, squares: Path, llava_run: Path, mesh: Mesh, transformers: Any, tmp_path: Path
) -> None:
    """Two steps under ZeRO-3 x TP 2 from the imported weights, then the same logits on either side."""
    rates = {"A": ("projector",), "B": ("projector", "decoder"), "C": ("projector", "decoder", "encoder")}[variant]
    parts = {
        "model": json.loads(json.dumps(_model(llava_run))),
        "stage": {"steps": 2, "start_from": str(llava_run), "train": dict.fromkeys(rates, 0.01)},
        "parallel": {"zero": 3, "precision": "fp32", "tp": 2},
        "log": {"to": []},
    }
    run = tmp_path / "run"
    for result in pool.run(
        "tests.pretrain.training_cases:trained", 2, 2, world=str(squares), run=str(run), parts=parts
    ):
        assert (result["did"], result["refused"]) == (2, None)
    out = tmp_path / "out"
    export_run(str(run), out, progress=False)
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(out, attn_implementation="eager").eval()
    samples = samples_of(IMAGE, CELLS, SIDE)
    with torch.no_grad():
        ours = logits_of(open_model(run, mesh), inputs_of(samples, IMAGE, PATCH, mesh), VOCABULARY)
        before = logits_of(open_model(llava_run, mesh), inputs_of(samples, IMAGE, PATCH, mesh), VOCABULARY)
        wanted = torch.cat([their_logits(theirs, sample) for sample in samples])
    assert (ours - wanted).abs().max() <= 1e-5 and (ours - before).abs().max() > 1e-3


def _model(run: Path) -> Any:
    from configs.load import load_recipe

    recipe: Any = load_recipe(str(run / "config.yaml"))
    return recipe.model.model_dump(mode="json")


def test_the_linear_projector_of_llava(mesh: Mesh, transformers: Any, tmp_path: Path) -> None:
    """LLaVA has one linear layer, which transformers has no class for: the published layout goes in and comes out."""
    folder = save_llava(transformers, tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    config["projector_hidden_act"] = "identity"
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    for part in ("weight", "bias"):
        tensors[f"multi_modal_projector.linear.{part}"] = tensors.pop(f"multi_modal_projector.linear_1.{part}")
        tensors.pop(f"multi_modal_projector.linear_2.{part}")
    save_file(tensors, folder / "model.safetensors")
    import_published(folder, tmp_path / "run", "llava1", progress=False)
    net = open_model(tmp_path / "run", mesh)
    features = torch.randn(5, VISION["hidden_size"])
    wanted = (
        features @ tensors["multi_modal_projector.linear.weight"].t() + tensors["multi_modal_projector.linear.bias"]
    )
    assert torch.allclose(net.projector(features, 1), wanted, atol=1e-6)


def spoil(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


BAD: dict[str, tuple[Any, str]] = {
    "a missing tensor": (
        lambda f: spoil(f, lambda t: t.pop("multi_modal_projector.linear_2.bias")),
        "lacks multi_modal_projector.linear_2.bias",
    ),
    "a tensor too many": (lambda f: spoil(f, lambda t: t.update(extra=torch.zeros(2))), "has extra and 0 more tensors"),
    "another shape": (
        lambda f: spoil(f, lambda t: t.update({"multi_modal_projector.linear_2.bias": torch.zeros(7)})),
        r"of shape \(7,\), its config.json says \(32,\)",
    ),
    "another family": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "has model_type 'bert': what can be imported is blip-2, ",
    ),
    "pickled weights": (
        lambda f: ((f / "model.safetensors").unlink(), (f / "pytorch_model.bin").write_bytes(b"x")),
        "is pickled, which may run code when it is read",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "a torn file": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:500]),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_refused_and_nothing_is_written(name: str, llava_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "hf"))
    change, said = BAD[name]
    change(folder)
    with pytest.raises(UserError, match=said) as refused:
        import_published(folder, tmp_path / "run", "x", progress=False)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_the_commands(llava_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["import", str(llava_folder), str(run), "--dry-run"]) == DONE and not run.exists()
    assert main(["import", str(llava_folder), str(run), "--json"]) == DONE
    assert main(["export", str(run), str(out), "--dry-run"]) == DONE and not out.exists()
    assert main(["export", str(run), str(out)]) == DONE and (out / "model.safetensors").exists()
    capsys.readouterr()
    assert (
        main(["import", str(llava_folder), str(run)]) == USAGE and "holds something already" in capsys.readouterr().err
    )
    assert main(["import", str(tmp_path / "none"), str(tmp_path / "b")]) == USAGE
    assert main(["export", str(run), str(out)]) == USAGE and "holds something already" in capsys.readouterr().err


def test_shards_are_read_and_written(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transformers: Any
) -> None:
    model = transformers.LlavaForConditionalGeneration.from_pretrained(llava_folder)
    model.save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").exists()
    import_published(tmp_path / "hf", tmp_path / "run", "x", progress=False)
    monkeypatch.setattr("pretrain.exporting.SHARD_BYTES", 50_000)
    assert len(export_run(str(tmp_path / "run"), tmp_path / "out", progress=False)) > 2
    again = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name
