"""Hashes of another version are neither mixed with new ones nor compared with them."""

from pathlib import Path

import pyarrow as pa
import pytest

from configs.errors import UserError
from configs.ingest import DedupConfig, StorageConfig
from configs.schema import BuildRecipe
from data_pipeline.ingest.assemble import load_hashes
from data_pipeline.ingest.dedup import run
from data_pipeline.ingest.dedup.perceptual import NEAR_BYTES, perceptual_hash
from data_pipeline.ingest.folder import identity_of
from data_pipeline.shard import OUTCOME_SCHEMA, table_bytes
from tests.data_pipeline.ingest.dedup.conftest import SPAN, found, hashes, picture


def recipe(near: bool) -> BuildRecipe:
    source = {"type": "folder", "path": "pictures"}
    return BuildRecipe.model_validate(
        {"kind": "build", "name": "x", "output": "out", "source": source, "dedup": {"near": near}}
    )


def published(folder: Path, size: int) -> None:
    row = {"position": 4, "outcome": "kept", "near": bytes(size)}
    (folder / "00000.outcomes.parquet").write_bytes(table_bytes(pa.Table.from_pylist([row], OUTCOME_SCHEMA)))


def test_a_build_with_another_hash_is_another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [identity_of(recipe(near)) for near in (False, True)]
    monkeypatch.setattr("data_pipeline.ingest.folder.NEAR_VERSION", 99)
    after = [identity_of(recipe(near)) for near in (False, True)]
    assert before[0] == after[0] and before[1] != after[1]


def test_a_published_dataset_of_an_older_hash_is_refused(tmp_path: Path) -> None:
    published(tmp_path, NEAR_BYTES)
    table = load_hashes(StorageConfig(), str(tmp_path), str(tmp_path), ("published", "00000"))
    assert table["near"].to_pylist() == [bytes(NEAR_BYTES)]
    published(tmp_path, 193)
    with pytest.raises(UserError, match="00000 holds perceptual hashes of an older version"):
        load_hashes(StorageConfig(), str(tmp_path), str(tmp_path), ("published", "00000"))


def test_a_search_with_another_hash_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = perceptual_hash(picture(5))
    assert found(tmp_path, [hashes([0, 1], look=[look, look])], {"near": True}) == {1: (0, "near")}
    monkeypatch.setattr(run, "NEAR_VERSION", 99)
    assert found(tmp_path, [hashes([0, 1], look=[look, None])], {"near": True}) == {}
    assert run.find_drops([], lambda _: hashes([]), DedupConfig(near=True), str(tmp_path), SPAN, on_ray=False) == 0
