"""The list of planted mistakes: what is planted, the command, and the sentence that it gives."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Mistake:
    """`plant` spoils the world (the working folder); `sentence` is a regular expression in what is said on stderr."""

    name: str
    argv: tuple[str, ...]
    sentence: str
    code: int = 2
    plant: Callable[[], object] = lambda: None
    patch: Callable[[pytest.MonkeyPatch], object] = lambda monkeypatch: None


def write(path: str, text: str) -> Callable[[], object]:
    def plant() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    return plant


def remove(path: str) -> Callable[[], object]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def change_json(path: str, **values: object) -> Callable[[], object]:
    """Set keys of a JSON file; None removes one."""

    def plant() -> None:
        data = {**json.loads(Path(path).read_text()), **values}
        Path(path).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return plant


def spoil_all(pattern: str, data: bytes) -> Callable[[], object]:
    return lambda: [path.write_bytes(data) for path in Path("photos").glob(pattern)]


def without_token(token: str) -> Callable[[], object]:
    """A tokenizer that has no such special token."""

    def plant() -> None:
        path = Path("tokens/tokenizer.json")
        path.write_text(path.read_text().replace(json.dumps(token)[1:-1], "<other>"))

    return plant


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def rank_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)


def train(*sets: str) -> tuple[str, ...]:
    return ("train", "mine.yaml", *(word for value in sets for word in ("--set", value)))


def recipe(text: str) -> Callable[[], object]:
    return write("mine.yaml", text)


CONFIGURATION = [
    Mistake("unknown key", train("sed=1"), r"unknown key sed \(in --set\): did you mean 'seed'\?"),
    Mistake("unknown key inside", train("model.decoder.layer=2"), r"unknown key model\.decoder\.layer .*did you mean 'layers'"),
    Mistake("word for a number", train("stage.steps=many"), r"stage\.steps is 'many' \(in --set\): input should be a valid integer"),
    Mistake("number for keys", train("optim=3"), r"optim is 3 .*it holds keys, one or more of betas, clip"),
    Mistake("below the least", train("data.packing.length=2"), r"data\.packing\.length is 2 .*greater than or equal to 8"),
    Mistake("not one of the choices", train("stage.kind=pretrain"), r"stage\.kind is 'pretrain' .*use 'caption' or 'sft'"),
    Mistake("not a ZeRO stage", train("parallel.zero=4"), r"parallel\.zero is 4 .*use 0, 1, 2 or 3"),
    Mistake("unknown encoder", train("model.encoder.type=resnet"), r"model\.encoder\.type is 'resnet' .*use one of efficientnet_lite0, native_vit"),
    Mistake("undefined rate", train("stage.train.decoder=.nan"), r"stage\.train\.decoder is nan .*finite number"),
    Mistake("nothing trains", train("stage.train={}"), r"stage\.train is \{\} .*at least 1 item"),
    Mistake("no sources", train("data.sources=[]"), r"data\.sources is \[\] .*at least 1 item"),
    Mistake("two sources of one name", train("data.sources=[{path: data}, {path: x/data}]"), r"data \(in --set\): two sources have the same name"),
    Mistake("missing part", ("train", "mine.yaml"), r"key stage is missing: set it", plant=recipe("kind: train\nname: x\nmodel: {}\ndata: {}\n")),
    Mistake("no kind", ("train", "mine.yaml"), r"kind is None: set it to build or train", plant=recipe("name: x\n")),
    Mistake("unknown kind", train("kind=trian"), r"kind is 'trian': set it to build or train"),
    Mistake("not YAML", ("train", "mine.yaml"), r"mine\.yaml is not YAML: .*line 2", plant=recipe("name: x\n\tseed: 1\n")),
    Mistake("YAML, but a list", ("train", "mine.yaml"), r"mine\.yaml holds list, not keys and values", plant=recipe("- 1\n")),
    Mistake("a key twice", ("train", "mine.yaml"), r"'seed' is written twice", plant=recipe("extends: tiny_train\nseed: 1\nseed: 2\n")),
    Mistake("unknown base", ("train", "mine.yaml"), r"no recipe is called 'tiny': did you mean 'tiny_train'|did you mean 'tiny_build'", plant=recipe("extends: tiny\n")),
    Mistake("base in a circle", ("train", "mine.yaml"), r"extends itself", plant=recipe("extends: mine.yaml\n")),
    Mistake("misspelt recipe", ("train", "tiny_trian"), r"no recipe is called 'tiny_trian': did you mean 'tiny_train'\?"),
    Mistake("recipe without its ending", ("train", "mine"), r"for the file give its path, mine\.yaml"),
    Mistake("missing recipe file", ("train", "other.yaml"), r"recipe file other\.yaml does not exist"),
    Mistake("--set without a value", train("stage.steps"), r"--set 'stage\.steps' has no KEY=VALUE"),
    Mistake("--set below a value", train("stage.steps.x=1"), r"stage\.steps is the value 200 and has no keys"),
    Mistake("--set beyond a list", train("data.sources.4.path=x"), r"'4' is not a place in a list of 1"),
    Mistake("TP does not divide the heads", train("parallel.tp=3", "parallel.ranks=3"), r"parallel\.tp 3 does not divide the decoder's 4 heads: use one of \[1, 2, 4\]"),
    Mistake("TP does not divide the ranks", train("parallel.tp=2", "parallel.ranks=3"), r"parallel\.tp 2 does not divide the 3 ranks .*use one of \[1, 3\]"),
    Mistake("heads do not divide the width", train("model.encoder.heads=3"), r"width 128 / heads 3 must be a whole multiple of 4"),
    Mistake("uneven groups of heads", train("model.decoder.kv_heads=3"), r"heads 4 must be a multiple of kv_heads 3"),
    Mistake("more warm-up than steps", train("optim.warmup_steps=500"), r"warmup_steps 500 is above stage\.steps 200"),
    Mistake("least above most", train("model.resolution.min_tokens=99"), r"min_tokens 99 is above max_tokens 64"),
    Mistake("a build recipe to train", ("train", "build.yaml"), r"is a build recipe: use `looksay data build"),
    Mistake("a training recipe to build", ("data", "build", "mine.yaml"), r"is a training recipe: use `looksay train"),
]

USAGE = [
    Mistake("misspelt verb", ("trian", "mine.yaml"), r"has no verb 'trian': did you mean 'train'\?"),
    Mistake("misspelt data verb", ("data", "bild"), r"looksay data has no verb 'bild': did you mean 'build'\?"),
    Mistake("misspelt option", ("train", "mine.yaml", "--sett", "seed=1"), r"no option '--sett': did you mean '--set'\?"),
    Mistake("no recipe", ("train",), r"arguments are required: RECIPE; see `looksay train --help`"),
    Mistake("one word too many", ("data", "verify", "data", "more"), r"does not know what to do with 'more'"),
    Mistake("not a rank", ("data", "stream", "mine.yaml", "--rank", "2", "--of", "2"), r"--rank 2 is not a rank of --of 2: ranks count from 0 to 1"),
    Mistake("no steps", ("data", "stream", "mine.yaml", "--steps", "0"), r"--steps: '0' is not a whole number above 0"),
    Mistake("no tokens", ("generate", "run", "--prompt", "x", "--max-new", "0"), r"--max-new: '0' is not a whole number above 0"),
    Mistake("nucleus above 1", ("generate", "run", "--prompt", "x", "--top-p", "1.5"), r"--top-p: '1\.5' is not a number above 0 and up to 1"),
    Mistake("copy over a file", ("recipes", "tiny_train", "--copy", "build.yaml"), r"--copy build\.yaml exists: choose another name"),
    Mistake("a rank without an address", train(), r"MASTER_PORT is not set: set it or unset RANK", patch=rank_without_address),
]

BUILD = [
    Mistake("missing folder", ("data", "build", "pictures", "out"), r"source pictures does not exist: give a folder of pictures"),
    Mistake("missing folder in a recipe", ("data", "build", "build.yaml", "--set", "source.path=pictures"), r"source\.path pictures is not a folder"),
    Mistake("missing list", ("data", "build", "pairs.jsonl", "out"), r"source\.path pairs\.jsonl does not exist: give a file with one JSON object a line"),
    Mistake("missing table", ("data", "build", "pairs.parquet", "out"), r"source\.path pairs\.parquet does not exist"),
    Mistake("no output folder", ("data", "build", "photos"), r"data build photos has no output folder: add one"),
    Mistake("unknown kind of file", ("data", "build", "pairs.zip", "out"), r"source pairs\.zip is not one of these: give a folder", plant=write("pairs.zip", "")),
    Mistake("no pictures", ("data", "build", "tokens", "out"), r"the source tokens has no rows: check its path and filters"),
    Mistake("no such column", ("data", "build", "package:emoji", "out", "--set", "source.text_column=words"), r"has no column 'words': it has \["),
    Mistake("filter that nothing passes", ("data", "build", "package:emoji", "out", "--set", "source.where={split: none}"), r"has no rows: check its path and filters"),
    Mistake("every caption is empty", ("data", "build", "photos", "out"), r"all 6 rows of out were rejected: \{'filter/empty_text': 6\}", plant=spoil_all("*.txt", b" \n")),
    Mistake("every picture is corrupt", ("data", "build", "photos", "out"), r"all 6 rows of out were rejected: \{'decode/not_a_picture': 6\}", plant=spoil_all("*.png", b"junk")),
    Mistake("every picture is empty", ("data", "build", "photos", "out"), r"all 6 rows of out were rejected: \{'decode/empty': 6\}", plant=spoil_all("*.png", b"")),
    Mistake("no caption beside any picture", ("data", "build", "photos", "out"), r"rejected: \{'source/no_sidecar': 6\}", plant=lambda: [p.unlink() for p in Path("photos").glob("*.txt")]),
    Mistake("output is a file", ("data", "build", "photos", "mine.yaml"), r"output mine\.yaml is a file: give a folder"),
    Mistake("output holds something else", ("data", "build", "photos", "run"), r"output run holds something else \(.*\): choose an empty folder"),
    Mistake("output holds another build", ("data", "build", "photos", "data", "--set", "images.size=64"), r"data holds another build \(images: .*\): choose another output"),
    Mistake("input changed", ("data", "build", "photos", "data"), r"data holds another build \(the input rows are not the same\)", plant=write("photos/0.txt", "changed")),
    Mistake("no space for a build", ("data", "build", "photos", "out"), r"no space is left for out", 1, patch=full_disk),
]

DATASETS = [
    Mistake("verify what is no dataset", ("data", "verify", "photos"), r"photos holds no dataset \(manifest\.json is missing\)"),
    Mistake("show what is not there", ("data", "show", "nothing"), r"nothing holds no dataset"),
    Mistake("manifest is cut off", ("data", "show", "data"), r"manifest\.json is not JSON .*damaged, build it again", plant=write("data/manifest.json", "{")),
    Mistake("manifest of a newer looksay", ("data", "show", "data"), r"has schema 9, this looksay reads 1", plant=change_json("data/manifest.json", schema=9)),
    Mistake("manifest without its shards", ("data", "show", "data"), r"manifest\.json .*damaged, build it again", plant=change_json("data/manifest.json", shards=None)),
    Mistake("vocabulary below the bytes", ("data", "tokenizer", "data", "--out", "t", "--vocab", "99"), r"vocabulary 99 is too small: 256 bytes and 6 marks need 262"),
    Mistake("tokenizer into a dataset", ("data", "tokenizer", "data", "--out", "data"), r"data holds a dataset: give the tokenizer a folder of its own"),
    Mistake("tokenizer of no dataset", ("data", "tokenizer", "photos", "--out", "t"), r"photos holds no dataset"),
    Mistake("no space for a tokenizer", ("data", "tokenizer", "data", "--out", "t"), r"no space is left for t", 1, patch=full_disk),
    Mistake("no space for a recipe", ("recipes", "tiny_train", "--copy", "copy.yaml"), r"no space is left for copy\.yaml", 1, patch=full_disk),
]

TRAINING = [
    Mistake("missing dataset", train("data.sources.0.path=elsewhere"), r"elsewhere holds no dataset \(manifest\.json is missing\)"),
    Mistake("missing held-out dataset", train("evaluate.source=elsewhere"), r"elsewhere holds no dataset"),
    Mistake("dataset without index", train(), r"data/00000\.index\.parquet is missing: the dataset is damaged", plant=remove("data/00000.index.parquet")),
    Mistake("dataset without tar", train(), r"data/00000\.tar is missing: the dataset is damaged", plant=remove("data/00000.tar")),
    Mistake("index of other length", ("data", "pack", "mine.yaml"), r"has 6 samples, the manifest says 7", plant=lambda: _one_more_sample()),
    Mistake("missing tokenizer", train("data.tokenizer=elsewhere"), r"data\.tokenizer elsewhere has no tokenizer\.json: train one"),
    Mistake("tokenizer is junk", train(), r"tokens/tokenizer\.json cannot be read as a tokenizer", plant=write("tokens/tokenizer.json", "{}")),
    Mistake("tokenizer without a mark", train(), r"the tokenizer in tokens has no token <image>: map data\.template", plant=without_token("<image>")),
    Mistake("template of another tokenizer", train("data.template.user=<|im_start|>"), r"has no token <\|im_start\|>"),
    Mistake("rows too short for any sample", ("data", "pack", "mine.yaml", "--set", "data.packing.length=8"), r"none of its 6 samples fits a row of 8 .*raise data\.packing\.length"),
    Mistake("start from nothing", train("stage.start_from=before"), r"stage\.start_from before is not a run"),
    Mistake("start from a run without checkpoint", train("stage.start_from=new_run"), r"stage\.start_from new_run has no complete checkpoint"),
    Mistake("start from a missing step", train("stage.start_from=run@7"), r"stage\.start_from run has no checkpoint of step 7: use one of \[10\]"),
    Mistake("run folder holds something else", (*train(), "--run", "photos"), r"run folder photos holds something else"),
    Mistake("run folder is a file", (*train(), "--run", "build.yaml"), r"run folder build\.yaml is a file"),
    Mistake("run of another recipe", (*train("optim.clip=0.5"), "--run", "run"), r"run holds a run of another recipe \(optim\.clip: 1\.0 -> 0\.5\)"),
    Mistake("no space for a run", train(), r"no space is left for runs/mine/logs/recipe\.yaml", 1, patch=full_disk),
    Mistake("sample beyond the dataset", ("inspect", "mine.yaml", "--sample", "6"), r"sample 6 .*6 samples"),
]

RUNS = [
    Mistake("generate from nothing", ("generate", "runs/none", "--prompt", "x"), r"runs/none is not a run \(it has no config\.yaml\)"),
    Mistake("generate without checkpoint", ("generate", "new_run", "--prompt", "x"), r"new_run has no complete checkpoint"),
    Mistake("generate from a missing step", ("generate", "run@3", "--prompt", "x"), r"run has no checkpoint of step 3: use one of \[10\]"),
    Mistake("nothing to generate from", ("generate", "run"), r"generate has neither --image nor --prompt"),
    Mistake("missing picture", ("generate", "run", "--image", "cat.png"), r"--image cat\.png does not exist: give a picture file"),
    Mistake("picture is a text", ("generate", "run", "--image", "photos/0.txt"), r"--image photos/0\.txt is not a picture that can be read"),
    Mistake("picture is cut off", ("generate", "run", "--image", "photos/0.png"), r"--image photos/0\.png is not a picture that can be read", plant=lambda: os.truncate("photos/0.png", 200)),
    Mistake("damaged checkpoint", ("generate", "run@10", "--prompt", "x"), r"step-00000010 is damaged \(rank-00000\.safetensors is missing\)"),
    Mistake("run's own recipe is damaged", ("evaluate", "run", "--data", "data"), r"config\.yaml is not YAML", plant=write("run/config.yaml", "a: [")),
    Mistake("nothing held out", ("evaluate", "run"), r"run was trained without evaluate\.source: give held-out samples with --data"),
    Mistake("held-out is no dataset", ("evaluate", "run", "--data", "photos"), r"photos holds no dataset"),
    Mistake("report on nothing", ("report", "runs/none"), r"runs/none is not a folder"),
]


def _one_more_sample() -> None:
    path = Path("data/manifest.json")
    data = json.loads(path.read_text())
    data["shards"][0]["samples"] += 1
    path.write_text(json.dumps(data))


MISTAKES = [*CONFIGURATION, *USAGE, *BUILD, *DATASETS, *TRAINING, *RUNS]
