"""manifest.json: what a dataset folder holds, written last, so that its presence means the dataset is whole."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from configs.errors import UserError
from data_pipeline.shard_table import ShardTable
from data_pipeline.storage import exists, join, listdir, put, read_bytes, remove

NAME = "manifest.json"
SCHEMA = 2


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
    shards: ShardTable
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
        raise UserError(
            f"{path} has schema {schema}, this looksay reads {SCHEMA}: use a matching version, or build it anew"
        )
    try:
        shards = ShardTable(path=join(folder, data["shards"]["file"]), count=int(data["shards"]["count"]))
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
    """The table of shards first, the manifest last; then tables that no manifest names are removed."""
    name, data, digest = manifest.shards.file()
    put(join(folder, name), data)
    said = {
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "recipe": manifest.recipe,
        "shards": {"file": name, "count": len(manifest.shards), "sha256": digest},
        "totals": manifest.totals,
        "schema": manifest.schema,
        "generations": [asdict(generation) for generation in manifest.generations],
        "files": manifest.files,
    }
    put(join(folder, NAME), json.dumps(said, indent=1, sort_keys=True).encode() + b"\n")
    for other in listdir(folder):
        if other.startswith("shards-") and other.endswith(".parquet") and other != name:
            remove(join(folder, other))


def shard_table_problem(folder: str) -> str | None:
    """What is wrong with the table of shards that the manifest names; None where it is the one that was written."""
    said = json.loads(read_bytes(join(folder, NAME)))["shards"]
    path = join(folder, said["file"])
    if not exists(path):
        return f"{path} is missing"
    if hashlib.sha256(read_bytes(path)).hexdigest() != said["sha256"]:
        return f"{path} does not have the SHA-256 of the manifest"
    return None
