"""The table of shards: a hundred thousand open at no cost, and a crash between it and the manifest leaves what was."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import UserError
from data_pipeline import manifest as manifests
from data_pipeline.manifest import Manifest, read_manifest, write_manifest
from data_pipeline.shard_table import PARTS, ShardEntry, ShardTable


def entries(count: int) -> list[ShardEntry]:
    return [ShardEntry(f"{n:05d}", 10 + n, 20 + n, n, dict.fromkeys(PARTS, f"{n:064x}")) for n in range(count)]


def described(count: int) -> Manifest:
    return Manifest("set", "f", {}, ShardTable(entries(count)), {"kept": 1})


def test_entries_come_back_from_the_file(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), described(30))
    shards = read_manifest(str(tmp_path)).shards
    assert len(shards) == 30 and list(shards) == entries(30) and shards == ShardTable(entries(30))
    assert shards[3] == entries(30)[3] and shards[-1] == entries(30)[-1] and list(shards[4:7]) == entries(30)[4:7]
    assert shards.samples.tolist() == [10 + n for n in range(30)]
    assert list(shards.names) == [f"{n:05d}" for n in range(30)] and shards.names[29] == "00029"
    assert shards != ShardTable(entries(29))


def test_a_hundred_thousand_shards_open_without_reading_their_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(str(tmp_path), described(100_000))
    asked = []
    columns = ShardTable._columns
    monkeypatch.setattr(ShardTable, "_columns", lambda self, *names: asked.append(names) or columns(self, *names))
    shards = read_manifest(str(tmp_path)).shards
    assert int(shards.samples.sum()) and shards.names[99_999] == "99999"
    assert asked == [("samples",), ("name",)]
    assert (tmp_path / "manifest.json").stat().st_size < 1000


def test_the_same_shards_are_the_same_bytes_and_old_tables_go(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), described(5))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_manifest(str(tmp_path), described(5))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_manifest(str(tmp_path), described(6))
    assert len(list(tmp_path.glob("shards-*.parquet"))) == 1


def test_a_crash_before_the_manifest_leaves_the_dataset_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(str(tmp_path), described(5))
    put = manifests.put

    def dying(path: str, data: bytes) -> None:
        if path.endswith("manifest.json"):
            raise KeyboardInterrupt
        put(path, data)

    monkeypatch.setattr(manifests, "put", dying)
    with pytest.raises(KeyboardInterrupt):
        write_manifest(str(tmp_path), described(6))
    assert len(read_manifest(str(tmp_path)).shards) == 5 == len(list(read_manifest(str(tmp_path)).shards))
    monkeypatch.undo()
    write_manifest(str(tmp_path), replace(described(5), name="again"))
    assert len(list(tmp_path.glob("shards-*.parquet"))) == 1, "the crash's table is still there"


def test_a_dataset_of_the_old_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "shards": []}))
    with pytest.raises(UserError, match=r"schema 1, this looksay reads 2: use a matching version, or build it anew"):
        read_manifest(str(tmp_path))
