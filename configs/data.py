"""What a training run reads: datasets, tokenizer, template, packing."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.base import Config
from configs.templates import TEMPLATES, Preset


class SourceConfig(Config):
    """One dataset folder (made by `looksay data build`) in the mixture."""

    path: str
    weight: float | tuple[tuple[int, float], ...] = Field(
        1.0,
        description="share drawn, relative to the other sources; or [[step, weight], ...]: from that step on, straight "
        "lines between the points",
    )
    name: str | None = Field(None, description="name in logs; none: the folder's name")

    @property
    def label(self) -> str:
        return self.name or self.path.rstrip("/").rsplit("/", 1)[-1]

    @field_validator("weight")
    @classmethod
    def _weight(cls, weight: float | tuple[tuple[int, float], ...]) -> float | tuple[tuple[int, float], ...]:
        points = weight if isinstance(weight, tuple) else ((0, weight),)
        steps = [step for step, _ in points]
        if not points or steps != sorted(set(steps)) or steps[0] != 0 or any(not value >= 0 for _, value in points):
            raise ValueError("weight must be a number, or [[0, w], [step, w], ...] with rising steps and no w below 0")
        if not any(value > 0 for _, value in points):
            raise ValueError("weight 0 throughout: leave the source out")
        return weight

    def weight_at(self, step: int) -> float:
        """The weight in force at optimizer step `step`."""
        points = self.weight if isinstance(self.weight, tuple) else ((0, self.weight),)
        after = next((k for k, (start, _) in enumerate(points) if start > step), len(points))
        (start, value), following = points[after - 1], points[after:]
        if not following:
            return value
        end, goal = following[0]
        return value + (goal - value) * (step - start) / (end - start)


class TemplateConfig(Config):
    """How messages become text.

    A conversation is `bos system (user content user_end | assistant content end assistant_end) ...`, a caption
    `bos image caption_prompt content end`. The content of answers and captions is learned, and `end`.

    Where each of these texts is one token of the tokenizer, contents are encoded apart between those tokens. Otherwise a
    sample is one string, encoded at once with special tokens parsed: the ids that `apply_chat_template` gives.
    """

    preset: Preset | None = Field(
        None, exclude=True, description="a published family's template; keys beside it change it (configs/templates.py)"
    )
    bos: str = Field("<|bos|>", description="opens a sample")
    user: str = Field("<|user|>", description="opens a question")
    assistant: str = Field("<|assistant|>", description="opens an answer; spaces at its end belong to the answer")
    end: str = Field("<|end|>", min_length=1, description="ends an answer, and is learned; generation stops at its end")
    image: str = Field("<image>", min_length=1, description="the token of a picture, repeated for its visual tokens")
    pad: str = Field("<|pad|>", min_length=1, description="the token of empty places")
    system: str = Field("", description="text before the first message of a conversation, with its marks")
    user_end: str = Field("", description="closes a question")
    assistant_end: str = Field("", description="text after `end`, not learned")
    image_before: str = Field("", description="text before each picture; {n} is the picture's number in the sample")
    image_after: str = Field("", description="text after each picture; a line's end that follows anyway is not doubled")
    images_first: bool | Literal["after_bos"] = Field(
        False,
        description="pictures stand before everything, or (after_bos) behind `bos`, not where the text marks them",
    )
    tight_images: bool = Field(
        False, description="the space that ends `user` or `assistant` is left out before a picture (SmolVLM)"
    )
    caption_prompt: str = Field("", description="text between a picture and its caption, not learned")

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        """A resolved recipe keeps the template itself, not its name."""
        if isinstance(given, dict) and isinstance(given.get("preset"), str) and given["preset"] in TEMPLATES:
            return {**TEMPLATES[given["preset"]], **{key: value for key, value in given.items() if key != "preset"}}
        return given

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that a tokenizer trained for this template has as tokens."""
        return tuple(dict.fromkeys(filter(None, (self.pad, self.bos, self.user, self.assistant, self.end, self.image))))

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts that the template puts around contents and pictures."""
        more = (self.system, self.user_end, self.assistant_end, self.image_before, self.image_after)
        around = (self.bos, self.user, self.assistant, self.end, *more, self.caption_prompt)
        return tuple(dict.fromkeys(filter(None, around)))

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from other templates. What is not used is not named, so that older counts stay valid."""
        first = ("bos", "user", "assistant", "end", "image", "pad")
        known = self.model_dump()
        return {k: v for k, v in known.items() if k in first or v != type(self).model_fields[k].default}


class PackingConfig(Config):
    """Rows of `length` positions; a step is `rows_per_step` rows whatever the number of ranks."""

    length: int = Field(..., ge=8)
    rows_per_step: int = Field(64, ge=1)
    window_steps: int = Field(64, ge=1, description="optimizer steps planned together")
    max_images_per_row: int | None = Field(None, ge=1)
    max_patches_per_row: int | None = Field(None, ge=1, description="bounds the encoder's memory")
    max_carry_windows: int = Field(1, ge=1, description="a sample left over this often is placed before all others")
    balance: Literal["none", "group"] = "group"


class ReadConfig(Config):
    """How bytes are brought from where a dataset lies."""

    cache: str | None = Field(
        None,
        description="folder on a local disk that keeps what was read from s3:// or http://; shared by a node's ranks",
    )
    cache_gb: float = Field(100.0, gt=0, description="most that the cache holds")
    connections: int = Field(32, ge=1, description="ranged requests in flight of one process")
    hedge_seconds: float | None = Field(
        None, gt=0, description="a request that takes longer is asked a second time; none: three times the median"
    )
    retry_seconds: float = Field(
        120.0,
        gt=0,
        description="a read that fails for a reason outside the bytes is retried so long, then ends the job",
    )
    checksums: bool = Field(True, description="check every member against its hash")


class DataConfig(Config):
    sources: tuple[SourceConfig, ...] = Field(..., min_length=1)
    tokenizer: str = Field(
        ..., description="folder with tokenizer.json, or ORG/NAME[@REVISION] of a hub (`looksay fetch` brings it)"
    )
    template: TemplateConfig = TemplateConfig()
    packing: PackingConfig
    mixture: Literal["samples", "tokens"] = Field("samples", description="what the sources' weights are shares of")
    read: ReadConfig = ReadConfig()
    workers: int | None = Field(
        None, ge=0, description="processes of a rank that read and decode ahead; 0: a thread; none: as cores allow"
    )
    planner: Literal["auto", "process", "thread"] = Field(
        "auto", description="where planning runs: in a process of its own, once a node, or in each rank; auto: by size"
    )
    ahead: int = Field(2, ge=1, description="optimizer steps that are prepared before they are asked for")
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
