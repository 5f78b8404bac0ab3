"""Proof that a dataset is what its manifest says: conservation of rows, and every hash down to each member.

Builds into one folder are read from the last to the first, for a row counts by its latest outcome: a retry takes rows
over, whose earlier outcome must have been a failure to fetch them.
"""

import contextlib
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from configs.ingest import StorageConfig
from data_pipeline.ingest.again import RETRIED
from data_pipeline.ingest.sources.record_images import PICTURE_ENDINGS
from data_pipeline.manifest import Generation, Manifest, read_manifest, shard_table_problem
from data_pipeline.sample import key_of, parse_body
from data_pipeline.shard import BLOCK, digest, read_table
from data_pipeline.shard_table import ShardEntry
from data_pipeline.storage import configure, exists, is_remote, join, listdir, open_stream, read_bytes

PARTS = {"tar": ".tar", "index": ".index.parquet", "outcomes": ".outcomes.parquet"}
MOST_PROBLEMS = 100
"""Problems listed before the rest is only counted."""
PIECE = 4 * 2**20


@dataclass
class Report:
    """What was checked, and each problem as one sentence that names the file."""

    shards: int = 0
    samples: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class _Counted:
    """Rows by their latest outcome, and the positions that a later build has taken over."""

    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    superseded: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    whole: bool = True


def verify(folder: str, storage: StorageConfig | None = None) -> Report:
    """Check a whole dataset; finds all problems rather than the first.

    Raises:
        UserError: there is no dataset.
    """
    if storage is not None:
        configure(storage)
    manifest, report, counted = read_manifest(folder), Report(), _Counted()
    problem = shard_table_problem(folder)
    if problem is not None:
        report.problems.append(problem)
        return report  # it says what to look for
    for generation, first, entries in reversed(_generations(manifest)):
        _generation(folder, generation, first, entries, counted, report)
    _totals(manifest, counted, report)
    _described(folder, manifest, report)
    _strangers(folder, manifest, report)
    if len(report.problems) > MOST_PROBLEMS:
        more = len(report.problems) - MOST_PROBLEMS
        report.problems = [*report.problems[:MOST_PROBLEMS], f"and {more} more problems"]
    return report


def _generations(manifest: Manifest) -> list[tuple[str, int, Sequence[ShardEntry]]]:
    """(kind, first position, shards) of every build into the folder."""
    known = manifest.generations or (Generation("build", len(manifest.shards), 0, manifest.fingerprint),)
    out, shard, position = [], 0, 0
    for generation in known:
        out.append((generation.kind, position, manifest.shards[shard : shard + generation.shards]))
        shard += generation.shards
        position += 0 if generation.kind == "retry" else generation.rows
    return out


def _generation(
    folder: str, kind: str, first: int, entries: Sequence[ShardEntry], counted: _Counted, report: Report
) -> None:
    """All shards of one build: equal counts, ascending keys, positions without a gap."""
    full = max((entry.samples for entry in entries), default=0)
    taken: list[np.ndarray] = []
    last_key, position = "", first
    for number, entry in enumerate(entries):
        if number < len(entries) - 1 and entry.samples != full:
            report.problems.append(f"{entry.name}: {entry.samples} samples, the shards before the last have {full}")
        with _files(folder, entry, report) as found:
            if found is None:
                counted.whole = False
                position += entry.rows
                continue
            tar, index, outcomes = found
            report.shards += 1
            report.samples += index.num_rows
            last_key = _index(folder, entry, tar, index, last_key, report)
            taken.append(_outcomes(folder, entry, index, outcomes, counted, report))
        if kind != "retry":
            if not np.array_equal(taken[-1], np.arange(position, position + entry.rows)):
                report.problems.append(
                    f"{entry.name}.outcomes.parquet: its rows are not the input rows {position} to "
                    f"{position + entry.rows - 1}: some are missing, or there twice"
                )
            position += entry.rows
    if kind == "retry" and taken:
        counted.superseded = np.union1d(counted.superseded, np.concatenate(taken))


@contextlib.contextmanager
def _files(folder: str, entry: ShardEntry, report: Report) -> Iterator[tuple[Any, pa.Table, pa.Table] | None]:
    """The tar (open, local), index and outcomes of a shard; None where one is missing or a table is not what was written."""
    tables, damaged = {}, False
    for part, ending in PARTS.items():
        path = join(folder, entry.name + ending)
        if not exists(path):
            report.problems.append(f"{path} is missing")
            yield None
            return
        if part != "tar":
            tables[part] = read_bytes(path)
            if hashlib.sha256(tables[part]).hexdigest() != entry.sha256[part]:
                report.problems.append(f"{path} does not have the SHA-256 of the manifest")
                damaged = True
    if damaged:
        yield None  # what a damaged table says about the others proves nothing
        return
    try:
        index, outcomes = read_table(tables["index"]), read_table(tables["outcomes"])
    except (ValueError, OSError) as error:
        report.problems.append(f"{entry.name}: its index or outcomes cannot be read ({error})")
        yield None
        return
    path = join(folder, entry.name + ".tar")
    with _local(path) as (tar, sha):
        if sha != entry.sha256["tar"]:
            report.problems.append(f"{path} does not have the SHA-256 of the manifest")
        yield tar, index, outcomes


@contextlib.contextmanager
def _local(path: str) -> Iterator[tuple[Any, str]]:
    """A file for reading at any place, and its SHA-256; a remote one is copied here first."""
    sha = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(open_stream(path)))
        copy = stack.enter_context(tempfile.TemporaryFile()) if is_remote(path) else None
        while piece := source.read(PIECE):
            sha.update(piece)
            if copy is not None:
                copy.write(piece)
        yield copy if copy is not None else stack.enter_context(open(path, "rb")), sha.hexdigest()


def _index(folder: str, entry: ShardEntry, tar: Any, index: pa.Table, last_key: str, report: Report) -> str:
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
            _member(path, row["key"], ending, offset, size, hashed, tar, report)
        body = _read(tar, row["json_offset"], row["json_size"])
        try:
            parse_body(body)
        except (ValueError, KeyError, TypeError) as error:
            report.problems.append(f"{path}: {row['key']}.json is not a sample ({error})")
    return last_key


def _read(tar: Any, offset: int, size: int) -> bytes:
    return os.pread(tar.fileno(), size, offset)


def _member(path: str, key: str, ending: str, offset: int, size: int, hashed: int, tar: Any, report: Report) -> None:
    data = _read(tar, offset - BLOCK, BLOCK + size)
    name = data[:100].rstrip(b"\0").decode("utf-8", "replace")
    data = data[BLOCK:]
    if len(data) != size or digest(data) != hashed:
        report.problems.append(f"{path}: {key}{ending} (bytes {offset}-{offset + size}) does not have its hash")
    if not (name.startswith(key) and name.endswith(ending)):
        report.problems.append(f"{path}: at {offset} lies {name!r}, the index says {key}{ending}")


def _outcomes(
    folder: str, entry: ShardEntry, index: pa.Table, outcomes: pa.Table, counted: _Counted, report: Report
) -> np.ndarray:
    """Input rows of the shard = kept + rejected; the kept ones are those of the index. Returns the positions."""
    path = join(folder, entry.name + PARTS["outcomes"])
    positions = outcomes["position"].to_numpy()
    kept = np.asarray(outcomes["outcome"].to_pylist(), object) == "kept"
    later = np.isin(positions, counted.superseded)
    if outcomes.num_rows != entry.rows or int(kept.sum()) != entry.samples:
        report.problems.append(
            f"{path}: {outcomes.num_rows} rows with {int(kept.sum())} kept, the manifest says {entry.rows} with {entry.samples}"
        )
    if [key_of(int(position)) for position in positions[kept]] != index["key"].to_pylist():
        report.problems.append(f"{path}: the rows that it keeps are not those of the index")
    stages, reasons = outcomes["stage"].to_pylist(), outcomes["reason"].to_pylist()
    for place in np.flatnonzero(later):
        if stages[place] != RETRIED:
            report.problems.append(f"{path}: row {positions[place]} was tried again although it had not failed")
    for place in np.flatnonzero(~kept & ~later):
        counted.rejected[f"{stages[place]}/{reasons[place]}"] += 1
    counted.kept += int((kept & ~later).sum())
    return positions


def _totals(manifest: Manifest, counted: _Counted, report: Report) -> None:
    totals = manifest.totals
    if totals["rows"] != totals["kept"] + sum(totals["rejected"].values()):
        report.problems.append(
            f"manifest.json: {totals['rows']} rows are not {totals['kept']} kept + {totals['rejected']}"
        )
    rejected = dict(sorted(counted.rejected.items()))
    if counted.whole and (totals["kept"] != counted.kept or totals["rejected"] != rejected):
        report.problems.append(
            f"manifest.json: {totals['kept']} kept, {totals['rejected']} rejected; the shards have {counted.kept}, {rejected}"
        )


def _described(folder: str, manifest: Manifest, report: Report) -> None:
    """The files beside the shards: what went in, what came out, the recipe."""
    for name, sha in manifest.files.items():
        path = join(folder, name)
        if not exists(path):
            report.problems.append(f"{path} is missing")
        elif hashlib.sha256(read_bytes(path)).hexdigest() != sha:
            report.problems.append(f"{path} does not have the SHA-256 of the manifest")


def _strangers(folder: str, manifest: Manifest, report: Report) -> None:
    """Shard files that the manifest does not name."""
    known = {entry.name + ending for entry in manifest.shards for ending in PARTS.values()}
    for name in listdir(folder):
        if name.endswith((*PARTS.values(), *PICTURE_ENDINGS)) and name not in known:
            report.problems.append(f"{join(folder, name)} is not in the manifest")
