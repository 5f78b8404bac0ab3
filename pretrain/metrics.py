"""What a run writes while it learns: metrics.jsonl, TensorBoard events, optionally wandb; useful FLOPs and MFU.

Useful FLOPs count real tokens only: a row's padding is work that buys nothing.
"""

import json
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from cluster.cost import work as cost
from cluster.cost.parts import Model, make_model
from configs.errors import UserError
from configs.model import ModelConfig
from configs.schema import TrainRecipe
from data_pipeline.storage import put
from data_pipeline.stream.batch import Batch
from pretrain.loads import load_of
from pretrain.report.folder import read_lines


def useful_flops(model: ModelConfig, vocabulary: int, batch: Batch, encoder_runs: bool) -> float:
    """FLOPs of forward and backward over real tokens: 6 per weight and token, 12 * width per attended pair a layer.

    Args:
        vocabulary: tokens of the tokenizer. encoder_runs: its features are not cached.
    """
    return cost.useful_flops(_listed(model, not encoder_runs), load_of(batch, model), vocabulary)


@lru_cache(maxsize=4)
def _listed(model: ModelConfig, features_only: bool) -> Model:
    """The operations of a model; padding of the vocabulary is not useful, so its size does not matter here."""
    return make_model(model, 1, 1, {}, features_only)


def seconds_of_steps(run: Path, last: int) -> float:
    """Seconds that the logged steps up to `last` took, by their own lines; 0 where nothing is logged."""
    lines = read_lines(run / "metrics.jsonl")
    return sum((row["seconds"]["total"] for row in lines if "seconds" in row and row["step"] <= last), 0.0)


class MetricsLog:
    """Rank 0's log of a run. `resume_step`: lines of later steps, written before a kill, are dropped."""

    def __init__(self, run: Path, recipe: TrainRecipe, resume_step: int):
        self.path = run / "metrics.jsonl"
        for path in (self.path, run / "predictions.jsonl"):
            keep_until(path, resume_step)
        self.file = self.path.open("a", encoding="utf-8")
        self.board: Any = None
        self.wandb: Any = None
        if "tensorboard" in recipe.log.to:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tb"), purge_step=resume_step + 1 if resume_step else 0)
        if "wandb" in recipe.log.to:
            self.wandb = _open_wandb(run, recipe)

    def write(self, values: dict[str, Any]) -> None:
        """One line; numbers go to TensorBoard and wandb as well. `step` counts finished optimizer steps."""
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        flat = {name: value for name, value in _flatten("", values) if name != "step"}
        if self.board is not None:
            for name, value in flat.items():
                self.board.add_scalar(name, value, values["step"])
        if self.wandb is not None:
            self.wandb.log(flat, step=values["step"])

    def flush(self, goodput: dict[str, Any] | None = None, step: int = 0) -> None:
        """TensorBoard keeps events for two minutes: a kill after a checkpoint must not lose those before it.

        Args:
            goodput: where the run's time went so far (pretrain/goodput.py), shown at `step`.
        """
        os.fsync(self.file.fileno())
        if self.board is not None:
            for name, value in _flatten("goodput/", goodput or {}):
                self.board.add_scalar(name, value, step)
            self.board.flush()

    def back_to(self, step: int) -> None:
        """Drop the lines of later steps, which are trained again."""
        self.file.close()
        keep_until(self.path, step)
        keep_until(self.path.with_name("predictions.jsonl"), step)
        self.file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def keep_until(path: Path, step: int) -> None:
    """Drop a log's lines of later steps and a torn last one; a run that begins anew (step 0) keeps none."""
    if not path.exists():
        return
    text, kept = path.read_text(encoding="utf-8"), []
    for line in text.splitlines():
        try:
            if step and json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            break  # the torn last line of a killed run
    if "".join(kept) != text:
        put(str(path), "".join(kept).encode())


def _flatten(prefix: str, values: dict[str, Any]) -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat += _flatten(f"{name}/", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat.append((name, value))
    return flat


def _open_wandb(run: Path, recipe: TrainRecipe) -> Any:
    """Offline unless WANDB_MODE says otherwise: a run must not wait for a network."""
    os.environ.setdefault("WANDB_MODE", "offline")
    try:
        import wandb
    except ImportError:
        raise UserError("log.to has wandb, which is not installed: pip install looksay[wandb]") from None
    return wandb.init(project="looksay", name=run.name, dir=str(run), config=recipe.model_dump(mode="json"))


def write_status(run: Path, state: str, step: int, steps: int, **more: Any) -> None:
    """status.json, atomic: {state, step, steps, time}. `state` is running, done, failed or preempted."""
    put(
        str(run / "status.json"),
        json.dumps({"state": state, "step": step, "steps": steps, "time": time.time(), **more}).encode(),
    )
