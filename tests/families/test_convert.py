"""Pickled weights become safetensors without running any; imports hold one tensor, out of folders and out of the cache."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from configs.errors import DONE, USAGE, UserError
from data_pipeline.parts import cache
from data_pipeline.parts.name import Hub
from pretrain.cli.main import main
from pretrain.converting import convert
from pretrain.importing import import_published
from pretrain.model.hf.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "ab" * 20


def pickled(folder: Path, out: Path, shards: int, **options: Any) -> Path:
    """The same model as old releases of transformers saved it."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    (out / "model.safetensors").unlink()
    for number in range(shards):
        part = {name: tensors[name] for name in sorted(tensors)[number::shards]}
        name = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        torch.save(part, out / name, **options)
    if shards > 1:
        (out / "pytorch_model.bin.index.json").write_text("{}")
    return out


@pytest.mark.parametrize(("shards", "zipped"), [(1, True), (3, True), (1, False)])
def test_the_same_tensors_in_another_format(
    shards: int, zipped: bool, llava_folder: Path, tmp_path: Path, transformers: Any
) -> None:
    old = pickled(llava_folder, tmp_path / "old", shards, _use_new_zipfile_serialization=zipped)
    assert len(convert(old, tmp_path / "new", progress=False)) == shards
    found: dict[str, Any] = {}
    for path in (tmp_path / "new").glob("*.safetensors"):
        found |= load_file(path)
    wanted = load_file(llava_folder / "model.safetensors")
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    _, told = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    import_published(tmp_path / "new", tmp_path / "run", "x", progress=False)


def test_views_of_one_storage_and_odd_layouts(tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(4, 6)
    tensors = {
        "a": whole,
        "b": whole[1:3],
        "c": whole.t(),
        "d": torch.tensor([True]),
        "e": whole.bfloat16(),
        "f": torch.tensor(3),
    }
    (tmp_path / "old").mkdir()
    torch.save(tensors, tmp_path / "old" / "pytorch_model.bin")
    [path] = convert(tmp_path / "old", tmp_path / "new", progress=False)
    found = load_file(path)
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("shape", ["zipped", "old", "bare"])
def test_a_hostile_pickle_runs_nothing(shape: str, tmp_path: Path) -> None:
    old, sprung, out = tmp_path / "old", tmp_path / "sprung", tmp_path / "new"
    old.mkdir()
    bomb = {"weight": torch.zeros(2), "trap": Trap(sprung)}
    if shape == "bare":
        (old / "pytorch_model.bin").write_bytes(pickle.dumps(bomb["trap"]))
    else:
        torch.save(bomb, old / "pytorch_model.bin", _use_new_zipfile_serialization=shape == "zipped")
    with pytest.raises(UserError, match=r"is no file of tensors alone .*none of it was run") as refused:
        convert(old, out, progress=False)
    assert "\n" not in str(refused.value) and not sprung.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    if shape != "bare":
        torch.load(old / "pytorch_model.bin", weights_only=False)
        assert sprung.exists(), "the trap does not work: this test would see nothing"


def test_the_command_and_its_refusals(llava_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = pickled(llava_folder, tmp_path / "old", 2), tmp_path / "new"
    assert main(["import", str(old), str(tmp_path / "run")]) == USAGE
    assert f"`looksay convert {old} OUT` makes safetensors of it" in capsys.readouterr().err
    assert main(["convert", str(old), str(new), "--dry-run"]) == DONE and not new.exists()
    assert main(["convert", str(old), str(new), "--json"]) == DONE
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["files"]) == 2
    assert main(["import", str(new), str(tmp_path / "run"), "--json"]) == DONE
    for words, said in (
        ((str(old), str(new)), "is there already"),
        ((str(new), str(tmp_path / "b")), "has safetensors already"),
        ((str(tmp_path), str(tmp_path / "b")), "there is nothing to convert"),
        ((str(old / "config.json"), str(tmp_path / "b")), "is a file"),
        (("maker/none", str(tmp_path / "b")), "looksay fetch maker/none"),
    ):
        capsys.readouterr()
        assert main(["convert", *words]) == USAGE and said in capsys.readouterr().err


# ---- out of the cache, in little memory -----------------------------------------------------------------------------


def test_a_hub_id_comes_out_of_the_cache(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a network: whatever opens a connection fails here."""
    monkeypatch.setenv("LOOKSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert main(["import", "maker/llava", str(tmp_path / "run")]) == USAGE
    said = capsys.readouterr().err
    assert (
        "maker/llava is no file or folder here, and not in the cache" in said and "`looksay fetch maker/llava`" in said
    )
    for number, path in enumerate(sorted(llava_folder.iterdir())):
        (cache.folder("partial") / path.name).write_bytes(path.read_bytes())
        blob = cache.adopt(cache.folder("partial") / path.name, f"{number:064x}")
        cache.link(blob, "hub", "maker--llava", COMMIT, path.name)
    cache.note(Hub("maker/llava"), COMMIT, ["model"])
    for name in ("maker/llava", f"maker/llava@{COMMIT}"):
        run = tmp_path / f"run-{len(name)}"
        assert main(["import", name, str(run), "--json"]) == DONE
        assert (run / "config.yaml").exists() and not (run / "hf" / "config.json").is_symlink()


WIDTH, LAYERS, VOCABULARY = 512, 8, 16_000
CONFIG: dict[str, Any] = {
    "model_type": "llava",
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
    }
    | {"num_attention_heads": 2},
    "text_config": {"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS}
    | {"num_attention_heads": 8, "intermediate_size": 8192},
}


def write_sparse(folder: Path) -> tuple[int, int]:
    """A model whose tensors are holes in one file. Returns bytes of all and of the largest."""
    family = FAMILIES["llava"]
    shapes = {family.published_name(rule.theirs): rule.published for rule in family.rules_of(family.model_of(CONFIG))}
    header, at, most = dict[str, Any](), 0, 0
    for name, shape in shapes.items():
        size = 4 * int(torch.Size(shape).numel())
        header[name], at, most = (
            {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]},
            at + size,
            max(most, size),
        )
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + at)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return at, most


MEASURE = """
import resource, sys
from pathlib import Path
import pretrain.importing
from pretrain.model.hf import families
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pretrain.importing.import_published(Path(sys.argv[1]), Path(sys.argv[2]), "x", progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_an_import_holds_one_tensor(tmp_path: Path) -> None:
    """511 MB in one file, 33 MB the largest tensor: measured 30 MB above a start; with the file in memory 1,004."""
    total, most = write_sparse(tmp_path)
    assert total > 450e6 and most < 40e6
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    grown = int(done.stdout) * 1024
    assert grown < 150e6, f"{grown / 1e6:.0f} MB"
