"""`looksay demo`: the whole job on embedded real data, in order, each part reused where it is there already.

data -> tokenizer -> [one start of two ranks: caption -> sft -> evaluate] -> segment (killed, resumed) -> report
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.load import dump_recipe, load_recipe
from configs.schema import BuildRecipe, TrainRecipe
from data_pipeline.storage import put
from pretrain.demo_segment import run_segment
from pretrain.demo_summary import write_summary
from pretrain.report.folder import MARKER
from pretrain.report.live import Refresher
from pretrain.report.page import write_report
from pretrain.run_folder import check_run_folder, steps_of
from pretrain.session import run_jobs

DATASETS = ("emoji_train", "emoji_heldout", "vqa_train", "vqa_test")
VOCABULARY = 2048
STAGES = {"caption": ("demo_caption", "emoji_train", "emoji_heldout"), "sft": ("demo_sft", "vqa_train", "vqa_test")}
"""Stage -> its recipe, what it trains on, what is held out."""


@dataclass
class Plan:
    """All that a demo will do: four datasets by name, two stages by name."""

    root: Path
    data: dict[str, BuildRecipe]
    caption: TrainRecipe
    sft: TrainRecipe


@dataclass
class Journal:
    """demo.json: what is going on, and the seconds of work of each part over all starts of this demo."""

    path: Path
    seconds: dict[str, float] = field(default_factory=dict)
    install: float | None = None
    state: str = "running"
    part: str | None = None

    @classmethod
    def open(cls, root: Path) -> "Journal":
        path = root / MARKER
        old = json.loads(path.read_bytes()) if path.exists() else {}
        made = cls(path, old.get("seconds", {}), old.get("install"))
        given = os.environ.get("LOOKSAY_INSTALL_SECONDS", "")
        if given.replace(".", "", 1).isdigit():
            made.install = float(given)
        made.save()
        return made

    def save(self) -> None:
        known = {"state": self.state, "part": self.part, "seconds": self.seconds, "install": self.install}
        put(str(self.path), json.dumps(known).encode())

    @contextlib.contextmanager
    def doing(self, part: str, title: str) -> Iterator[list[bool]]:
        """Count the seconds of a part, unless it says that all of it was reused: `with ... as worked: worked.append(...)`."""
        print(f"\n== {title}", flush=True)
        worked: list[bool] = []
        self.part, start = part, time.perf_counter()
        self.save()
        try:
            yield worked
        finally:
            taken = time.perf_counter() - start
            if worked != [False]:
                self.seconds[part] = round(self.seconds.get(part, 0.0) + taken, 1)
                print(f"   {taken:.1f} s", flush=True)
            self.save()

    def close(self, state: str) -> None:
        """The demo ends: done, failed or stopped."""
        self.state = state
        self.part = None if state == "done" else self.part
        self.save()

    @property
    def total(self) -> float:
        return round(sum(self.seconds.values()), 1)


def run_demo(folder: str, seed: int = 0, sets: Sequence[str] = (), dry_run: bool = False) -> int:
    """Run or continue the demo in `folder`; prints the path of its report.

    Args:
        sets: `caption.KEY=VALUE`, `sft.KEY=VALUE` or `data.DATASET.KEY=VALUE`.
    Raises:
        UserError: the folder holds something else, or a demo of other settings.
        RunError: a rank failed.
    """
    plan = make_plan(Path(folder), seed, sets)
    root = plan.root
    if dry_run:
        print(
            f"would build {len(plan.data)} datasets in {root / 'data'}, train {plan.caption.stage.steps} + {plan.sft.stage.steps} steps, "
            f"evaluate, and write {root / 'report.html'}"
        )
        return 0
    check_folder(plan)
    root.mkdir(parents=True, exist_ok=True)
    begun, journal = time.perf_counter(), Journal.open(root)
    print(f"looksay demo in {root}; its report, from the second minute on: {root / 'report.html'}", flush=True)
    try:
        with Refresher(root):
            summary = run_parts(plan, journal)
        journal.close("done")
    except BaseException as error:
        journal.close("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        with contextlib.suppress(OSError):  # the page is only a view: the first error is the one to tell
            write_report([root])
        raise
    report = write_report([root])
    print(
        f"\n{highlights(summary)}\nlooksay demo: {time.perf_counter() - begun:.0f} s now, {journal.total:.0f} s in all"
    )
    print(report)
    return 0


def run_parts(plan: Plan, journal: Journal) -> dict[str, Any]:
    """Data, ranks, segment and summary in order, each reused where it is whole. Returns the summary."""
    with journal.doing("data", "data: emoji captions and easy-VQA questions -> WebDataset") as worked:
        worked.append(build_data(plan))
    ranks = plan.caption.parallel.ranks
    with journal.doing("ranks", f"caption, SFT and evaluation in one start of {ranks} ranks") as worked:
        worked.append(train_and_evaluate(plan))
    with journal.doing("segment", "a rank is killed and the run resumed: are the weights the same?") as worked:
        worked.append(run_segment(plan.root, plan.caption))
    return write_summary(plan.root, {**journal.seconds, "total": journal.total}, journal.install)


def check_folder(plan: Plan) -> None:
    """Before anything is done: the folder is new, or a demo of these very settings.

    Raises:
        UserError: it is not.
    """
    root = plan.root
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file: choose another --folder")
    if root.exists() and any(root.iterdir()) and not (root / MARKER).exists():
        raise UserError(f"{root} holds something else: choose another --folder, or empty it")
    for name, recipe in (("caption", plan.caption), ("sft", plan.sft)):
        check_run_folder(root / name, recipe, option="--folder")


def make_plan(root: Path, seed: int, sets: Sequence[str]) -> Plan:
    """The recipes with their folders under `root` and the user's settings."""
    settings: dict[str, list[str]] = {name: [] for name in (*STAGES, *(f"data.{name}" for name in DATASETS))}
    for item in sets:
        owner = next((name for name in settings if item.startswith(f"{name}.")), None)
        if owner is None:
            raise UserError(
                f"--set {item!r}: begin with caption., sft. or data.DATASET. ({', '.join(DATASETS)}), for example --set sft.stage.steps=100"
            )
        settings[owner].append(item.removeprefix(f"{owner}."))
    data = {
        name: load_recipe(f"demo_{name}", [f"output={root}/data/{name}", *settings[f"data.{name}"]])
        for name in DATASETS
    }
    stages = {}
    for stage, (name, train, heldout) in STAGES.items():
        places = [
            f"seed={seed}",
            f"data.sources.0.path={root}/data/{train}",
            f"data.tokenizer={root}/data/tokenizer",
            f"evaluate.source={root}/data/{heldout}",
        ]
        places += [f"stage.start_from={root}/caption"] if stage == "sft" else []
        stages[stage] = load_recipe(name, [*places, *settings[stage]])
    return Plan(root, data, stages["caption"], stages["sft"])


def build_data(plan: Plan) -> bool:
    """The four datasets on one Ray, then the tokenizer. Returns whether there was anything to do."""
    from data_pipeline.ingest.job import build
    from data_pipeline.ingest.ray_local import local_ray
    from data_pipeline.manifest import NAME
    from data_pipeline.stream.tokenizer import train_tokenizer

    recipes = list(plan.data.values())
    if all((Path(recipe.output) / NAME).exists() for recipe in recipes):
        made = [build(recipe) for recipe in recipes]
    else:
        with local_ray(recipes[0].ray):
            made = [build(recipe) for recipe in recipes]
    for recipe, manifest in zip(recipes, made, strict=True):
        totals, state = manifest.totals, "reused" if manifest.reused else "built"
        pictures = ", ".join(f"{count} with {number}" for number, count in totals["pictures_per_sample"].items())
        print(
            f"   {recipe.output}: {state}, {totals['kept']} of {totals['rows']} rows kept; pictures a sample: {pictures}"
        )
    folder = plan.root / "data" / "tokenizer"
    made_tokenizer = not (folder / "tokenizer.json").exists()
    if made_tokenizer:
        sources = [plan.data[name].output for name in ("emoji_train", "vqa_train")]
        print(f"   {folder}: {train_tokenizer(sources, str(folder), VOCABULARY)} tokens")
    else:
        print(f"   {folder}: reused")
    return made_tokenizer or not all(manifest.reused for manifest in made)


def train_and_evaluate(plan: Plan) -> bool:
    """All that is not done yet, in one start of the ranks. Returns whether there was anything to do."""
    root = plan.root
    jobs: list[dict[str, Any]] = []
    for name, recipe in (("caption", plan.caption), ("sft", plan.sft)):
        steps, run = recipe.stage.steps, root / name
        saved = steps_of(run)
        if steps in saved:
            print(f"   {run}: reused, step {steps} is there")
            continue
        print(f"   {run}: {f'resumed at step {saved[-1]}' if saved else 'trained'}, {steps} steps")
        path = run / "logs" / "recipe.yaml"
        put(str(path), dump_recipe(recipe).encode())
        jobs.append({"verb": "train", "recipe": str(path), "run": str(run)})
    data = {name: recipe.output for name, recipe in plan.data.items()}
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
        run_jobs(jobs, plan.caption.parallel.ranks, root / "logs")
    return bool(jobs)


def highlights(summary: dict[str, Any]) -> str:
    """What the console says at the end."""
    vqa, swap, caption = summary["vqa"], summary["image_swap"], summary["caption"]
    types = ", ".join(f"{name} {share:.1%}" for name, share in vqa["by_type"].items())
    low, high = caption["interval"]
    return (
        f"easy-VQA test accuracy {vqa['accuracy']:.1%} ({types}); text alone {vqa['text_only']:.1%}\n"
        f"pairs right {swap['pair_accuracy']:.1%}; with a blank picture {swap['blank_accuracy']:.1%}\n"
        f"caption retrieval among 100: {caption['retrieval_at_1_of_100']:.1%} (95 % interval {low:.1%} to {high:.1%}, chance 1 %)\n"
        f"killed and resumed run bitwise equal: {summary['resume']['bitwise']}"
    )
