"""`looksay demo`: the whole job on embedded real data, in order, each part reused where it is there already.

data -> tokenizer -> [one start of two ranks: caption -> sft -> evaluate] -> segment (killed, resumed) -> report
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.load import dump_recipe, load_recipe
from configs.schema import TrainRecipe
from data_pipeline.storage import put
from pretrain.demo_segment import run_segment
from pretrain.demo_summary import write_summary
from pretrain.report.live import Refresher
from pretrain.report.page import write_report
from pretrain.run_folder import steps_of
from pretrain.session import run_jobs

DATASETS = ("emoji_train", "emoji_heldout", "vqa_train", "vqa_test")
VOCABULARY = 2048
MARKER = "demo.json"


class Stopwatch:
    """Seconds of each part, kept in demo.json so that a second start still knows what the first one took."""

    def __init__(self, root: Path):
        self.path = root / MARKER
        self.seconds: dict[str, float] = json.loads(self.path.read_bytes())["seconds"] if self.path.exists() else {}
        self.begun = time.perf_counter()
        self.save()

    def save(self) -> None:
        put(str(self.path), json.dumps({"seconds": self.seconds}).encode())

    @contextmanager
    def part(self, name: str, title: str) -> Iterator[None]:
        print(f"\n== {title}", flush=True)
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        print(f"   {taken:.1f} s", flush=True)
        if taken > self.seconds.get(name, 0.0) or name not in self.seconds:
            self.seconds[name] = round(taken, 1)  # a reused part keeps the time that it took to make
        self.save()


def run_demo(folder: str, seed: int = 0, sets: Sequence[str] = (), dry_run: bool = False) -> int:
    """Run or continue the demo in `folder`; prints the path of its report.

    Args:
        sets: `caption.KEY=VALUE` or `sft.KEY=VALUE`.
    Raises:
        UserError: the folder holds something else.
    """
    root = Path(folder)
    caption, sft = stage_recipes(root, seed, sets)
    if dry_run:
        print(
            f"would build {len(DATASETS)} datasets in {root / 'data'}, train {caption.stage.steps} + {sft.stage.steps} steps, evaluate, and write {root / 'report.html'}"
        )
        return 0
    if root.exists() and any(root.iterdir()) and not (root / MARKER).exists():
        raise UserError(f"{root} holds something else: choose another --folder, or empty it")
    root.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch(root)
    with Refresher(root):
        with watch.part("data", "data: emoji captions and easy-VQA questions -> WebDataset"):
            build_data(root)
        with watch.part("ranks", f"caption pretraining, SFT and evaluation on {caption.parallel.ranks} ranks"):
            train_and_evaluate(root, caption, sft)
        with watch.part("segment", "a rank is killed and the run resumed: are the weights the same?"):
            run_segment(root, caption)
    watch.seconds["total"] = round(sum(watch.seconds[part] for part in ("data", "ranks", "segment")), 1)
    watch.save()
    summary = write_summary(root, watch.seconds)
    report = write_report([root])
    print(
        f"\n{highlights(summary)}\nlooksay demo: {time.perf_counter() - watch.begun:.0f} s now, {watch.seconds['total']:.0f} s in all"
    )
    print(report)
    return 0


def stage_recipes(root: Path, seed: int, sets: Sequence[str]) -> tuple[TrainRecipe, TrainRecipe]:
    """The two stages with their folders under `root`."""
    places = {
        "caption": ("demo_caption", "emoji_train", "emoji_heldout"),
        "sft": ("demo_sft", "vqa_train", "vqa_test"),
    }
    made = []
    for stage, (name, train, heldout) in places.items():
        overrides = [
            f"seed={seed}",
            f"data.sources.0.path={root}/data/{train}",
            f"data.tokenizer={root}/data/tokenizer",
            f"evaluate.source={root}/data/{heldout}",
        ]
        overrides += [f"stage.start_from={root}/caption"] if stage == "sft" else []
        for item in sets:
            part, dot, rest = item.partition(".")
            if part not in places or not dot:
                raise UserError(f"--set {item!r}: begin with caption. or sft., for example --set sft.stage.steps=100")
            overrides += [rest] if part == stage else []
        made.append(load_recipe(name, overrides))
    return made[0], made[1]


def build_data(root: Path) -> None:
    """The four datasets on one Ray, then the tokenizer."""
    from data_pipeline.ingest.job import build, local_ray
    from data_pipeline.manifest import NAME
    from data_pipeline.stream.tokenizer import train_tokenizer

    recipes = [load_recipe(f"demo_{name}", [f"output={root}/data/{name}"]) for name in DATASETS]
    missing = [recipe for recipe in recipes if not (Path(recipe.output) / NAME).exists()]
    if missing:
        with local_ray(recipes[0].ray):
            made = [build(recipe) for recipe in recipes]
    else:
        made = [build(recipe) for recipe in recipes]
    for recipe, manifest in zip(recipes, made, strict=True):
        totals = manifest.totals
        state = "reused" if manifest.reused else "built"
        print(
            f"   {recipe.output}: {state}, {totals['kept']} of {totals['rows']} rows, pictures a sample {totals['pictures_per_sample']}"
        )
    folder = root / "data" / "tokenizer"
    if (folder / "tokenizer.json").exists():
        print(f"   {folder}: reused")
    else:
        sources = [str(root / "data" / name) for name in ("emoji_train", "vqa_train")]
        print(f"   {folder}: {train_tokenizer(sources, str(folder), VOCABULARY)} tokens")


def train_and_evaluate(root: Path, caption: TrainRecipe, sft: TrainRecipe) -> None:
    """All that is not done yet, in one start of the ranks."""
    jobs: list[dict[str, Any]] = []
    for name, recipe in (("caption", caption), ("sft", sft)):
        if recipe.stage.steps in steps_of(root / name):
            print(f"   {root / name}: reused, step {recipe.stage.steps} is there")
            continue
        path = root / name / "logs" / "recipe.yaml"
        put(str(path), dump_recipe(recipe).encode())
        jobs.append({"verb": "train", "recipe": str(path), "run": str(root / name)})
    data = {name: str(root / "data" / name) for name in DATASETS}
    asked = {
        "caption": {"caption": {"train": data["emoji_train"], "heldout": data["emoji_heldout"]}},
        "sft": {"vqa": {"train": data["vqa_train"], "test": data["vqa_test"]}},
    }
    for name, what in asked.items():
        out = root / name / "evaluation"
        if (out / "evaluation.json").exists() and not any(job.get("run") == str(root / name) for job in jobs):
            print(f"   {out}: reused")
            continue
        jobs.append({"verb": "evaluate", "run": str(root / name), "out": str(out), **what})
    if jobs:
        run_jobs(jobs, caption.parallel.ranks, root / "logs")


def highlights(summary: dict[str, Any]) -> str:
    """What the console says at the end."""
    vqa, swap = summary["vqa"], summary["image_swap"]
    types = ", ".join(f"{name} {share:.1%}" for name, share in vqa["by_type"].items())
    return (
        f"easy-VQA test accuracy {vqa['accuracy']:.1%} ({types}); text alone {vqa['text_only']:.1%}\n"
        f"pairs right {swap['pair_accuracy']:.1%}; with a blank picture {swap['blank_accuracy']:.1%}\n"
        f"caption retrieval among 100: {summary['caption']['retrieval_at_1_of_100']:.1%} (chance 1 %)\n"
        f"killed and resumed run bitwise equal: {summary['resume']['bitwise']}"
    )
