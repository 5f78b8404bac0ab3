"""What a run writes while it learns: metrics.jsonl, TensorBoard events, optionally wandb; useful FLOPs and MFU.

Useful FLOPs count real tokens only: a row's padding is work that buys nothing.
"""

import json
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from configs.decoder import DecoderConfig
from configs.encoders import NativeViT, ViT
from configs.errors import UserError
from configs.model import ModelConfig
from configs.projectors import LinearProjector
from configs.schema import TrainRecipe
from data_pipeline.storage import put
from data_pipeline.stream.batch import Batch
from pretrain.report.folder import read_lines


def useful_flops(model: ModelConfig, vocabulary: int, channels: int, batch: Batch, encoder_runs: bool) -> float:
    """FLOPs of forward and backward over real tokens: 6 per weight and token, 12 * width per attended pair a layer."""
    decoder = model.decoder
    lengths = (batch.segments[:, 2] - batch.segments[:, 0]).astype(float)
    visual = float(len(batch.vision.slots))
    flops = 6.0 * decoder.layers * layer_weights(decoder) * lengths.sum()
    flops += 6.0 * decoder.layers * decoder.width * float((lengths * (lengths + 1)).sum())
    flops += 6.0 * decoder.width * vocabulary * batch.label_tokens
    flops += 6.0 * visual * projector_weights(model, channels)
    if encoder_runs and isinstance(model.encoder, NativeViT | ViT) and batch.vision.patch_segments is not None:
        vit, sizes = model.encoder, np.diff(batch.vision.patch_segments).astype(float)
        depth = vit.layers if isinstance(vit, ViT) else vit.depth
        weights = 4 * vit.width**2 + 2 * vit.width * vit.mlp_width
        flops += 6.0 * depth * (weights * sizes.sum() + 2 * vit.width * float((sizes**2).sum()))
    return flops


def seconds_of_steps(run: Path, last: int) -> float:
    """Seconds that the logged steps up to `last` took, by their own lines; 0 where nothing is logged."""
    lines = read_lines(run / "metrics.jsonl")
    return sum((row["seconds"]["total"] for row in lines if "seconds" in row and row["step"] <= last), 0.0)


def projector_weights(model: ModelConfig, channels: int) -> int:
    """Elements of the projector's matrices; `channels` of one cell of the encoder."""
    width, depth = model.decoder.width, getattr(model.projector, "depth", 2)
    hidden = getattr(model.projector, "hidden", None) or width
    sizes = [channels * model.merge**2, *([hidden] * (depth - 1)), width]
    if isinstance(model.projector, LinearProjector):
        sizes = [channels, width]
    return sum(a * b for a, b in pairwise(sizes))


def layer_weights(decoder: DecoderConfig) -> int:
    """Elements of the matrices of one decoder layer."""
    width, kv = decoder.width, (decoder.kv_heads or decoder.heads) * (decoder.width // decoder.heads)
    return 2 * width * width + 2 * width * kv + 3 * width * decoder.mlp_width


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
