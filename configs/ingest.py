"""What a data build reads, does and writes."""

from typing import Annotated, Literal

from pydantic import Field

from configs.base import Config


class FolderSource(Config):
    """Pictures with a sidecar NAME.txt (caption) or NAME.json ({"text"} or {"messages"}) beside each."""

    type: Literal["folder"] = "folder"
    path: str


class JsonlSource(Config):
    """One JSON object a line: {"image"|"images": path(s) relative to the file, "text" | "messages"}."""

    type: Literal["jsonl"] = "jsonl"
    path: str


class ParquetSource(Config):
    """Parquet with picture bytes (Hugging Face layout: a struct of `bytes` and `path`, or plain binary)."""

    type: Literal["parquet"] = "parquet"
    path: str = Field(..., description="file; `package:emoji` is the embedded Fluent emoji set")
    image_column: str = "image"
    text_column: str = "text"
    where: dict[str, str] = Field(default_factory=dict, description="column -> value that a row must have")


class EasyVqaSource(Config):
    """The easy-VQA wheel: pictures of shapes with questions (MIT)."""

    type: Literal["easy_vqa"] = "easy_vqa"
    split: Literal["train", "test"]
    questions: int = Field(4, ge=1, description="most questions of one picture in one conversation")
    seed: int = Field(0, description="order of a picture's questions")


Source = Annotated[FolderSource | JsonlSource | ParquetSource | EasyVqaSource, Field(discriminator="type")]


class ComposeConfig(Config):
    """Join neighbouring records (in a seeded order) into samples of several pictures, each on its own canvas."""

    seed: int = 0
    pictures: tuple[int, ...] = Field((1, 1, 2, 3, 4), description="cycle of pictures per sample")
    canvases: tuple[tuple[int, int], ...] = Field(
        ((128, 128),), description="width x height drawn for each picture: resized to fit, padded as `images.pad` says"
    )


class ImagesConfig(Config):
    mode: Literal["keep-ratio", "border", "none"] = "keep-ratio"
    size: int = Field(256, ge=1, description="longest side in pixels")
    pad: Literal["white", "edge"] = Field(
        "white", description="what fills a border or canvas: white, or the median colour of the picture's own edge"
    )
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = Field(95, ge=1, le=100)
    max_pixels: int = Field(178_956_970, ge=1, description="larger pictures are rejected from their header alone")


class TextConfig(Config):
    min_chars: int = Field(1, ge=0)
    max_chars: int = Field(100_000, ge=1)


class RayConfig(Config):
    address: str | None = Field(None, description="existing cluster; none: a local Ray starts and stops with the build")
    workers: int | None = Field(None, ge=1, description="tasks at a time; none: one per core")
    object_store_mb: int = Field(256, ge=80)
