"""What a data build reads, fetches, does and writes."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from configs.base import Config

Paths = str | tuple[str, ...]


class FolderSource(Config):
    """Pictures with a sidecar NAME.txt (caption) or NAME.json ({"text"} or {"messages"}) beside each."""

    type: Literal["folder"] = "folder"
    path: str
    frames: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda value: value is None,
        description="each folder of pictures is one sample (a video), of so many of them, evenly chosen; NAME.txt or "
        "NAME.json stands beside folder NAME; none: each picture is a sample",
    )


class TableSource(Config):
    """Rows of parquet, csv, tsv, json, jsonl (gzipped too), Arrow files of `save_to_disk`, or a `hf://` dataset.

    The image column holds bytes (or a struct with `bytes`), URLs, or paths below `image_root`; or lists of these.
    """

    type: Literal["table"] = "table"
    path: Paths = Field(
        ..., description="file, glob, list of these, `save_to_disk` folder, hf://datasets/NAME, or `package:emoji`"
    )
    format: Literal["auto", "parquet", "csv", "tsv", "json", "jsonl", "arrow"] = Field(
        "auto", description="auto: by the name's ending"
    )
    rows: Literal["auto", "pairs", "conversations", "preference"] = Field(
        "auto", description="what a row is; auto: by the columns that are there"
    )
    image_column: str | None = Field(None, description="none: the first of the usual names (image, images, url, ...)")
    text_column: str | None = Field(None, description="none: the first of the usual names (text, caption, ...)")
    messages_column: str | None = Field(None, description="none: messages or conversations")
    question_column: str = "question"
    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    where: dict[str, str] = Field(default_factory=dict, description="column -> value that a row must have")
    keep_columns: tuple[str, ...] | None = Field(
        None, description="columns kept as provenance; none: id, label, url and the like where they are"
    )
    image_root: str | None = Field(
        None, description="folder that paths are below; none: the folder of a json or jsonl file, else no path is read"
    )


class WebdatasetSource(Config):
    """Tars that somebody else made: members grouped by name up to the first dot of the last part."""

    type: Literal["webdataset"] = "webdataset"
    path: Paths = Field(..., description="file, glob, list, or braces: s3://bucket/x-{000..999}.tar")
    text_field: str | None = Field(None, description="key of the .json member; none: caption, text, ... or .txt")


class CocoSource(Config):
    """COCO captions: one JSON with `images` and `annotations`."""

    type: Literal["coco"] = "coco"
    path: str
    image_root: str | None = Field(None, description="folder of the pictures; none: the file's own folder")
    captions: Literal["each", "first", "all"] = Field(
        "each", description="each caption a row; or a row per picture with its first caption, or all joined by newlines"
    )


class EasyVqaSource(Config):
    """The easy-VQA wheel: pictures of shapes with questions (MIT)."""

    type: Literal["easy_vqa"] = "easy_vqa"
    split: Literal["train", "test"]
    questions: int = Field(4, ge=1, description="most questions of one picture in one conversation")
    seed: int = Field(0, description="order of a picture's questions")


Source = Annotated[
    FolderSource | TableSource | WebdatasetSource | CocoSource | EasyVqaSource, Field(discriminator="type")
]


class StorageConfig(Config):
    """Where `s3://` is. Keys come from the environment or a profile, never from a recipe."""

    endpoint_url: str | None = Field(None, description="S3 server other than AWS, for example http://minio:9000")
    profile: str | None = Field(None, description="profile of ~/.aws")
    region: str | None = None
    ca_bundle: str | None = Field(None, description="PEM file of authorities to trust")
    path_style: bool = Field(False, description="bucket in the path instead of the host name")


class FetchConfig(Config):
    """How pictures behind URLs are fetched. All limits hold for one picture, whatever the server does."""

    deadline: float = Field(20.0, gt=0, description="seconds for one picture: redirects and retries included")
    retries: int = Field(2, ge=0, description="after a failure that may pass (time-out, 429, 5xx)")
    max_bytes: int = Field(64 * 2**20, ge=1)
    max_redirects: int = Field(5, ge=0)
    concurrency: int = Field(64, ge=1, description="pictures in flight in one worker")
    per_host: int = Field(16, ge=1, description="connections to one host from one worker")
    user_agent: str = "looksay/0.1 (+https://github.com/looksay/looksay)"
    robots_txt: bool = True
    opt_out: tuple[str, ...] = Field(
        ("noai", "noimageai", "noindex", "noimageindex", "none", "noml"),
        description="X-Robots-Tag directives that keep a picture out; empty: ignore the header",
    )
    allow_private: bool = Field(False, description="fetch from private, loopback and link-local addresses too")
    ca_bundle: str | None = Field(None, description="PEM file of authorities to trust beside the usual ones")


class ComposeConfig(Config):
    """Join neighbouring records (in a seeded order) into samples of several pictures, each on its own canvas."""

    seed: int = 0
    pictures: tuple[int, ...] = Field((1, 1, 2, 3, 4), description="cycle of pictures per sample")
    canvases: tuple[tuple[int, int], ...] = Field(
        ((128, 128),), description="width x height drawn for each picture: resized to fit, padded as `images.pad` says"
    )


class ImagesConfig(Config):
    mode: Literal["keep-ratio", "keep-ratio-largest", "center-crop", "border", "none"] = Field(
        "keep-ratio",
        description="keep-ratio: the shortest side becomes `size`; keep-ratio-largest: the longest; "
        "center-crop and border: size x size",
    )
    size: int = Field(256, ge=1, description="pixels")
    enlarge: bool = Field(
        False,
        description="make small pictures larger too (border and canvases always fit); "
        "if not, center-crop takes the largest square of a small one",
    )
    pad: Literal["white", "edge"] = Field(
        "white", description="what fills a border or canvas: white, or the median colour of the picture's own edge"
    )
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = Field(95, ge=1, le=100)
    passthrough: bool = Field(
        True, description="keep the source's bytes, its metadata among them, where nothing has to change"
    )
    max_pixels: int = Field(
        89_478_485, ge=1, le=178_956_970, description="larger pictures are rejected from their header alone"
    )
    decode_seconds: float = Field(30.0, gt=0, description="longest decoding of one picture before it is rejected")
    decode_memory_mb: int = Field(2048, ge=64, description="most memory that decoding one picture may take")


class TextConfig(Config):
    """Rules on a sample's text that hold in any language."""

    min_chars: int = Field(1, ge=0)
    max_chars: int = Field(100_000, ge=1)
    min_words: int = Field(0, ge=0)
    max_words: int | None = Field(None, ge=1)
    min_letters: float = Field(0.0, ge=0, le=1, description="least share of letters among characters but spaces")
    max_repetition: float = Field(
        1.0, gt=0, le=1, description="largest share that one word may have of at least five words"
    )
    max_links: int | None = Field(None, ge=0, description="most web addresses")


class ScorerConfig(Config):
    """A batched model of the user's: `module:name` of a class whose instance maps a list of pictures to scores."""

    name: str = Field(..., pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="key of the score in provenance")
    function: str = Field(..., pattern=r"^[\w.]+:\w+$")
    batch: int = Field(32, ge=1)
    workers: int = Field(1, ge=1, description="actors of the pool")
    cpus: float = Field(0.0, ge=0, description="processors that Ray sets aside for each actor")
    gpus: float = Field(0.0, ge=0)
    seconds: float = Field(300.0, gt=0, description="longest for loading, and for one batch, before its actor is lost")
    keep: str | None = Field(None, description="expression on the name, for example `score > 0.3`; none: only noted")


class FiltersConfig(Config):
    """What is not wanted. Each rule rejects with its own reason. Sizes are of the source's picture, upright."""

    min_side: int = Field(0, ge=0)
    min_area: int = Field(0, ge=0)
    max_area: int | None = Field(None, ge=1)
    max_aspect: float | None = Field(None, ge=1, description="longest side / shortest side")
    where: str | None = Field(
        None, description="expression on the source's columns: similarity > 0.3 and nsfw != 'NSFW'"
    )
    domains: str | None = Field(None, description="file of domains (and their subdomains) to refuse")
    hashes: str | None = Field(None, description="file of SHA-256 (hex) of source bytes to refuse")
    words: str | None = Field(None, description="file of words or phrases that a text must not hold")
    predicates: tuple[str, ...] = Field((), description="module:function, called with (sample) -> bool or reason")
    scorers: tuple[ScorerConfig, ...] = ()

    @field_validator("predicates")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name.count(":") != 1 or not all(name.split(":")):
                raise ValueError(f"{name!r} is not module:function")
        return names


class DedupConfig(Config):
    """Which samples are duplicates; the one with the lowest input position stays."""

    exact: Literal["none", "image", "image+text"] = Field("none", description="equal source bytes (and equal text)")
    near: bool = Field(False, description="equal to the eye: re-encoded or resized copies of one picture")


class RayConfig(Config):
    address: str | None = Field(None, description="existing cluster; none: a local Ray starts and stops with the build")
    workers: int | None = Field(
        None, ge=0, description="tasks at a time; none: one per core; 0: in this process, without Ray"
    )
    object_store_mb: int = Field(256, ge=80)
    attempts: int = Field(4, ge=1, description="starts of one task whose worker or node is lost")
    hedge_seconds: float = Field(
        20.0, gt=0, description="a task that stands this long beyond the usual is started once more elsewhere"
    )
