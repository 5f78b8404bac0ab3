"""How a run learns: stage, optimizer, parallelism, checkpoints, logs, evaluation."""

from typing import Literal

from pydantic import Field

from configs.base import Config


class StageConfig(Config):
    """One stage of training; a run is one stage."""

    kind: Literal["caption", "sft"]
    steps: int = Field(..., ge=1, description="optimizer steps")
    start_from: str | None = Field(None, description="RUN or RUN@STEP whose weights this stage starts from")
    train: dict[str, float] = Field(
        ...,
        min_length=1,
        description="module or pattern (`projector`, `decoder.layers[20:]`) -> peak learning rate; the rest is frozen",
    )


class OptimConfig(Config):
    """AdamW (Loshchilov & Hutter 2019) with linear warm-up and decay."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="on matrices; norms, biases and embeddings have none")
    clip: float = Field(1.0, ge=0, description="global gradient norm; 0: no clipping")
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_ratio: float = Field(0.0, ge=0, le=1, description="learning rate at the last step / peak")
    nonfinite: Literal["skip", "rollback", "stop"] = Field(
        "skip",
        description="a step whose gradient is not finite: leave the weights as they are (skip); train from the newest checkpoint "
        "on again, and skip it if it is not finite again (rollback); end the run (stop)",
    )
    max_nonfinite: int = Field(8, ge=1, description="so many such steps among the last hundred end the run")
    spike_ratio: float = Field(
        0.0,
        ge=0,
        description="a loss above so many times the mean of the last hundred steps is undone: back to the newest checkpoint, and "
        "that step is left out; 0: never",
    )


class ParallelConfig(Config):
    tp: int = Field(1, ge=1, description="tensor-parallel ranks of a group")
    ranks: int = Field(1, ge=1, description="processes started here when no launcher started us")
    zero: Literal[0, 1, 2, 3] = 3
    rows_per_rank: int = Field(1, ge=1, description="rows of one micro-step on one data-parallel rank")
    precision: Literal["bf16", "fp32"] = "bf16"
    math: Literal["auto", "fp32"] = Field(
        "auto",
        description="matrix products in the weights' precision where the device is fast at it, else in fp32 (auto)",
    )
    persistence_threshold: int = Field(0, ge=0, description="ZeRO-3 keeps smaller parameters whole (elements)")
    timeout_seconds: float = Field(
        300.0, gt=0, description="deadline of a collective; a job without progress ends then"
    )
    heartbeat_seconds: float = Field(
        60.0, ge=3, description="a rank that gives no sign of life for so long ends the job"
    )
    restarts: int = Field(
        3, ge=0, description="starts again, of ranks started here, while each finds a newer checkpoint"
    )
    straggler_ratio: float = Field(
        0.0,
        ge=0,
        description="a rank so many times slower than the median for 20 steps ends the job; 0: it is only named",
    )


class CheckpointConfig(Config):
    every: int = Field(100, ge=1, description="steps between checkpoints; the last step always has one")
    keep_last: int = Field(2, ge=1)
    keep_every: int | None = Field(None, ge=1, description="checkpoints of multiples of this step stay")
    keep_best: bool = Field(False, description="the checkpoint with the lowest validation loss stays")
    folder: str | None = Field(None, description="where checkpoints go, a folder or s3://; none: RUN/checkpoints")
    audit_every: int = Field(
        0,
        ge=0,
        description="steps between audits for silent corruption (replicas compared, a step done twice); 0: none",
    )


class LogConfig(Config):
    every: int = Field(1, ge=1)
    to: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)


class EvaluateConfig(Config):
    """Validation on a fixed plan; `every` 0 means only at the end."""

    source: str | None = Field(None, description="dataset folder of held-out samples")
    every: int = Field(0, ge=0, description="steps between validations")
    stop_after: int = Field(
        0, ge=0, description="end the run after so many validations in a row without a lower loss; 0: never"
    )
    samples: int = Field(256, ge=1, description="held-out samples of one validation")
    pictures: int = Field(6, ge=0, description="fixed pictures whose answers are kept over time")
