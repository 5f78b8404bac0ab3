"""manifest.json: what a dataset folder holds, written last, so that its presence means the dataset is whole."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from configs.errors import UserError
from data_pipeline.storage import exists, join, put, read_bytes

NAME = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class ShardEntry:
    """One shard. `rows` counts input rows (kept and rejected), `sha256` has tar, index and outcomes."""

    name: str
    samples: int
    rows: int
    bytes: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class Generation:
    """One build into the folder: the first, an extension by new input rows, or a retry of failed ones.

    `shards` is how many shards it made, `rows` how many input rows it took (again, for a retry), `superseded` the
    rejections that a retry replaced by its own outcomes, by reason; `lists` the SHA-256 of each file that its filters
    read.
    """

    kind: str
    shards: int
    rows: int
    fingerprint: str
    superseded: dict[str, int] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Totals: rows = kept + sum(rejected), each row by its latest outcome; pictures_per_sample counts samples by
    number of pictures. `generations` in order; their shards follow one another. `files`: SHA-256 of what lies beside
    the shards."""

    name: str
    fingerprint: str
    recipe: dict[str, Any]
    shards: tuple[ShardEntry, ...]
    totals: dict[str, Any]
    schema: int = SCHEMA
    generations: tuple[Generation, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    reused: bool = field(default=False, compare=False)

    @property
    def version(self) -> int:
        """How many builds have gone into the folder."""
        return max(1, len(self.generations))


def read_manifest(folder: str) -> Manifest:
    """Raises UserError where `folder` holds no dataset, or one of a newer looksay."""
    path = join(folder, NAME)
    if not exists(path):
        raise UserError(f"{folder} holds no dataset ({NAME} is missing): build it with `looksay data build`")
    try:
        data = json.loads(read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): the dataset is damaged, build it again") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UserError(f"{path} has schema {schema}, this looksay reads {SCHEMA}: use a matching version")
    try:
        shards = tuple(ShardEntry(**entry) for entry in data["shards"])
        generations = tuple(Generation(**entry) for entry in data.get("generations", ()))
        return Manifest(
            data["name"],
            data["fingerprint"],
            data["recipe"],
            shards,
            data["totals"],
            generations=generations,
            files=data.get("files", {}),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} lacks {error}: the dataset is damaged, build it again") from None


def write_manifest(folder: str, manifest: Manifest) -> None:
    data = asdict(manifest)
    del data["reused"]
    put(join(folder, NAME), json.dumps(data, indent=1, sort_keys=True).encode() + b"\n")
