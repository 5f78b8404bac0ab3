"""Proof that a dataset is what its manifest says: conservation of rows, and every hash down to each member."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.ingest.sources import PICTURE_ENDINGS
from data_pipeline.manifest import Manifest, ShardEntry, read_manifest
from data_pipeline.sample import parse_body
from data_pipeline.shard import BLOCK, digest, read_table
from data_pipeline.storage import exists, join, listdir, read_bytes

PARTS = {"tar": ".tar", "index": ".index.parquet", "outcomes": ".outcomes.parquet"}
MOST_PROBLEMS = 100
"""Problems listed before the rest is only counted."""


@dataclass
class Report:
    """What was checked, and each problem as one sentence that names the file."""

    shards: int = 0
    samples: int = 0
    problems: list[str] = field(default_factory=list)


def verify(folder: str) -> Report:
    """Check a whole dataset; finds all problems rather than the first.

    Raises:
        UserError: there is no dataset.
    """
    manifest, report = read_manifest(folder), Report()
    rejected: dict[str, int] = {}
    last_key = ""
    full = max((entry.samples for entry in manifest.shards), default=0)
    for number, entry in enumerate(manifest.shards):
        found = _files(folder, entry, report)
        if found is None:
            continue
        tar, index, outcomes = found
        report.shards += 1
        report.samples += index.num_rows
        last_key = _index(folder, entry, tar, index, last_key, report)
        _outcomes(folder, entry, outcomes, rejected, report)
        if number < len(manifest.shards) - 1 and entry.samples != full:
            report.problems.append(f"{entry.name}: {entry.samples} samples, the shards before the last have {full}")
    _totals(manifest, rejected, report)
    _strangers(folder, manifest, report)
    if len(report.problems) > MOST_PROBLEMS:
        more = len(report.problems) - MOST_PROBLEMS
        report.problems = [*report.problems[:MOST_PROBLEMS], f"and {more} more problems"]
    return report


def _files(folder: str, entry: ShardEntry, report: Report) -> tuple[bytes, Any, Any] | None:
    """The three files of a shard; None where one is missing, or where a table is not the one that was written."""
    data, damaged = {}, False
    for part, ending in PARTS.items():
        path = join(folder, entry.name + ending)
        if not exists(path):
            report.problems.append(f"{path} is missing")
            return None
        data[part] = read_bytes(path)
        if hashlib.sha256(data[part]).hexdigest() != entry.sha256[part]:
            report.problems.append(f"{path} does not have the SHA-256 of the manifest")
            damaged |= part != "tar"
    if damaged:
        return None  # what a damaged table says about the others proves nothing
    try:
        return data["tar"], read_table(data["index"]), read_table(data["outcomes"])
    except (ValueError, OSError) as error:
        report.problems.append(f"{entry.name}: its index or outcomes cannot be read ({error})")
        return None


def _index(folder: str, entry: ShardEntry, tar: bytes, index: Any, last_key: str, report: Report) -> str:
    """Every member of the tar has the place, size, hash and name that the index says; keys ascend."""
    path = join(folder, entry.name + ".tar")
    if index.num_rows != entry.samples:
        report.problems.append(f"{path}: the index has {index.num_rows} samples, the manifest {entry.samples}")
    for row in index.to_pylist():
        if row["key"] <= last_key:
            report.problems.append(f"{path}: key {row['key']} comes after {last_key}")
        last_key = row["key"]
        members = [(row["json_offset"], row["json_size"], row["json_hash"], ".json")]
        members += [
            (offset, size, hashed, f".{kind}")
            for offset, size, hashed, kind in zip(
                row["image_offset"], row["image_size"], row["image_hash"], row["image_format"], strict=True
            )
        ]
        for offset, size, hashed, ending in members:
            data = tar[offset : offset + size]
            if len(data) != size or digest(data) != hashed:
                report.problems.append(
                    f"{path}: {row['key']}{ending} (bytes {offset}-{offset + size}) does not have its hash"
                )
            name = tar[offset - BLOCK : offset - BLOCK + 100].rstrip(b"\0").decode("utf-8", "replace")
            if not (name.startswith(row["key"]) and name.endswith(ending)):
                report.problems.append(f"{path}: at {offset} lies {name!r}, the index says {row['key']}{ending}")
        _body(path, row, tar, report)
    return last_key


def _body(path: str, row: dict[str, Any], tar: bytes, report: Report) -> None:
    try:
        parse_body(tar[row["json_offset"] : row["json_offset"] + row["json_size"]])
    except (ValueError, KeyError, TypeError) as error:
        report.problems.append(f"{path}: {row['key']}.json is not a sample ({error})")


def _outcomes(folder: str, entry: ShardEntry, outcomes: Any, rejected: dict[str, int], report: Report) -> None:
    """Input rows of the shard = kept + rejected."""
    path, kept = join(folder, entry.name + PARTS["outcomes"]), 0
    for row in outcomes.to_pylist():
        if row["outcome"] == "kept":
            kept += 1
        else:
            name = f"{row['stage']}/{row['reason']}"
            rejected[name] = rejected.get(name, 0) + 1
    if outcomes.num_rows != entry.rows or kept != entry.samples:
        report.problems.append(
            f"{path}: {outcomes.num_rows} rows with {kept} kept, the manifest says {entry.rows} with {entry.samples}"
        )


def _totals(manifest: Manifest, rejected: dict[str, int], report: Report) -> None:
    totals = manifest.totals
    if totals["rows"] != totals["kept"] + sum(totals["rejected"].values()):
        report.problems.append(
            f"manifest.json: {totals['rows']} rows are not {totals['kept']} kept + {totals['rejected']}"
        )
    if report.shards == len(manifest.shards) and (totals["kept"] != report.samples or totals["rejected"] != rejected):
        report.problems.append(
            f"manifest.json: {totals['kept']} kept, {totals['rejected']} rejected; the shards have {report.samples}, {rejected}"
        )


def _strangers(folder: str, manifest: Manifest, report: Report) -> None:
    """Shard files that the manifest does not name."""
    known = {entry.name + ending for entry in manifest.shards for ending in PARTS.values()}
    for name in listdir(folder):
        if name.endswith((*PARTS.values(), *PICTURE_ENDINGS)) and name not in known:
            report.problems.append(f"{join(folder, name)} is not in the manifest")
