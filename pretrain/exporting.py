"""A run leaves as the published folder that its family has: what `transformers` loads."""

import json
import shutil
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from configs.errors import UserError
from configs.load import load_recipe
from configs.schema import TrainRecipe
from data_pipeline.storage import put, put_file
from pretrain.checkpoint.choose import find
from pretrain.checkpoint.reading import Checkpoint
from pretrain.importing import ASIDE, HOME
from pretrain.joining import is_joined, joined_config, write_home
from pretrain.model.hf.families import family_of
from pretrain.model.hf.published import INDEX, SINGLE, Published, configuration
from pretrain.model.hf.rules import Rule

SHARD_BYTES = 1 << 30
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export_run(spec: str, out: Path, progress: bool = True) -> list[Path]:
    """Write RUN[@STEP] to `out` as its family is published. Returns the files with weights.

    Raises:
        UserError: the run does not come from an imported model, or `out` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something already: choose another folder")
    home = home_of(Path(spec.partition("@")[0]))
    if not (home / "config.json").exists():
        recipe = load_recipe(str(home.parent / "config.yaml"))
        assert isinstance(recipe, TrainRecipe)
        write_home(recipe, home)
    chosen = find(spec)
    checkpoint = Checkpoint(chosen.folder, chosen.frozen)
    config = configuration(home)
    family = family_of(config, str(home / "config.json"))
    rules = sorted(family.rules_of(family.model_of(config)), key=_theirs)
    wanted = DTYPES.get(config.get("dtype") or config.get("torch_dtype") or "float32", torch.float32)
    lacking = [rule.ours for rule in rules if checkpoint.shape(rule.ours) != rule.shape]
    if lacking:
        raise UserError(
            f"{chosen.folder} has no {lacking[0]} of the shape that {home / 'config.json'} says: it is of another model"
        )
    out.mkdir(parents=True, exist_ok=True)
    shards = _Shards(out)
    # Rules of one published tensor stand together.
    groups = groupby(tqdm(rules, unit=" tensor", desc="export", disable=None if progress else True), _theirs)
    for theirs, group in groups:
        tensor: Tensor | None = None
        for rule in group:
            tensor = torch.empty(rule.published, dtype=wanted) if tensor is None else tensor
            rule.put(checkpoint.tensor(rule.ours), tensor)
        assert tensor is not None
        shards.add(family.published_name(theirs), tensor)
    if (home / ASIDE).exists():
        kept = Published.of_file(home / ASIDE)
        for name, tensor in kept.items():
            shards.add(name, tensor)
    written = shards.close()
    shutil.copytree(home, out, ignore=shutil.ignore_patterns(ASIDE), dirs_exist_ok=True)
    checkpoint.close()
    return written


def _theirs(rule: Rule) -> str:
    return rule.theirs


def home_of(run: Path) -> Path:
    """RUN/hf, of the run or of the one that its weights came from; an export makes it where parts of their own were joined.

    Raises:
        UserError: no run on the way was imported or joined, or what was joined is no published family.
    """
    seen: list[Path] = []
    while run not in seen:
        seen.append(run)
        if (run / HOME / "config.json").exists():
            return run / HOME
        recipe = load_recipe(str(run / "config.yaml"))
        if not isinstance(recipe, TrainRecipe) or recipe.stage.start_from is None:
            if isinstance(recipe, TrainRecipe) and is_joined(recipe):
                joined_config(recipe)
                return run / HOME
            break
        run = Path(recipe.stage.start_from.partition("@")[0])
    raise UserError(
        f"{seen[0]} does not come from an imported model: `looksay import HF RUN` first, and start from it with stage.start_from"
    )


class _Shards:
    """Tensors in order, in files of at most SHARD_BYTES, named when their number is known."""

    def __init__(self, out: Path):
        self.out, self.held, self.size = out, dict[str, Tensor](), 0
        self.files: list[tuple[Path, list[str], int]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self.held and self.size + size > SHARD_BYTES:
            self._write()
        self.held[name] = tensor
        self.size += size

    def _write(self) -> None:
        path, held = self.out / f"part-{len(self.files) + 1:05d}.safetensors", self.held
        put_file(str(path), lambda target: save_file(held, target, metadata={"format": "pt"}))
        self.files.append((path, sorted(held), self.size))
        self.held, self.size = {}, 0

    def close(self) -> list[Path]:
        self._write()
        if len(self.files) == 1:
            return [self.files[0][0].rename(self.out / SINGLE)]
        named: dict[str, str] = {}
        paths: list[Path] = []
        for number, (path, names, _) in enumerate(self.files, 1):
            final = self.out / f"model-{number:05d}-of-{len(self.files):05d}.safetensors"
            paths.append(path.rename(final))
            named |= dict.fromkeys(names, final.name)
        index = {"metadata": {"total_size": sum(size for *_, size in self.files)}, "weight_map": named}
        put(str(self.out / INDEX), json.dumps(index, indent=1).encode())
        return paths
