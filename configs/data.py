"""What a training run reads: datasets, tokenizer, template, packing."""

from typing import Literal

from pydantic import Field, model_validator

from configs.base import Config


class SourceConfig(Config):
    """One dataset folder (made by `looksay data build`) in the mixture."""

    path: str
    weight: float = Field(1.0, gt=0, description="share of samples drawn, relative to the other sources")
    name: str | None = Field(None, description="name in logs; none: the folder's name")

    @property
    def label(self) -> str:
        return self.name or self.path.rstrip("/").rsplit("/", 1)[-1]


class TemplateConfig(Config):
    """How messages become text. All marks must be single special tokens of the tokenizer."""

    bos: str = "<|bos|>"
    user: str = "<|user|>"
    assistant: str = "<|assistant|>"
    end: str = "<|end|>"
    image: str = "<image>"
    pad: str = "<|pad|>"

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.pad, self.bos, self.user, self.assistant, self.end, self.image)


class PackingConfig(Config):
    """Rows of `length` positions; a step is `rows_per_step` rows whatever the number of ranks."""

    length: int = Field(..., ge=8)
    rows_per_step: int = Field(64, ge=1)
    window_steps: int = Field(64, ge=1, description="optimizer steps planned together")
    max_images_per_row: int | None = Field(None, ge=1)
    max_carry_windows: int = Field(2, ge=1, description="a sample left over this often opens a row of its own")
    balance: Literal["none", "group"] = "group"


class DataConfig(Config):
    sources: tuple[SourceConfig, ...] = Field(..., min_length=1)
    tokenizer: str = Field(..., description="folder with tokenizer.json")
    template: TemplateConfig = TemplateConfig()
    packing: PackingConfig
    long_samples: Literal["reject", "shrink-image", "truncate-text"] = "reject"
    chunk: int = Field(64, ge=1, description="neighbouring samples read together: the unit of the shuffle")
    cache_features: bool = Field(False, description="keep a frozen encoder's output on disk beside the dataset")
    max_bad_samples: float = Field(0.01, ge=0, le=1, description="share of unreadable samples that stops the run")

    @model_validator(mode="after")
    def _labels(self) -> "DataConfig":
        labels = [source.label for source in self.sources]
        if len(set(labels)) != len(labels):
            raise ValueError(f"two sources have the same name in {labels}: set `name`")
        return self
