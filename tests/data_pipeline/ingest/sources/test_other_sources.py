"""COCO captions, folders, `save_to_disk`, the Hub's files, and memory while a long list is counted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from configs.errors import UserError
from tests.data_pipeline.ingest.sources.conftest import SOURCE, data_of, inputs, png, problems, rows, table

ROOT = Path(__file__).resolve().parents[4]


def coco(folder: Path) -> Path:
    for n in range(3):
        (folder / f"{n}.png").write_bytes(png(n))
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(3)]
    said = [(0, "one"), (2, "two"), (0, "three"), (9, "of nothing")]
    annotations = [{"id": 10 + n, "image_id": i, "caption": text} for n, (i, text) in enumerate(said)]
    (folder / "captions.json").write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return folder / "captions.json"


@pytest.mark.parametrize(
    ("captions", "texts"),
    [("each", ["one", "two", "three"]), ("first", ["one", "two"]), ("all", ["one\nthree", "two"])],
)
def test_coco_captions(captions: str, texts: list[str], tmp_path: Path) -> None:
    path = coco(tmp_path)
    records = rows(SOURCE.validate_python({"type": "coco", "path": str(path), "captions": captions}), tmp_path)
    good = [r for r in records if r.problem is None]
    assert [r.text for r in good] == texts
    assert data_of(good[0].images[0]) == png(0) and data_of(good[1].images[0]) == png(2)
    assert len(records) == len(good) + 1, "what has no picture, or no caption, is a row too"


def test_a_json_that_is_no_coco(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"images": []')
    with pytest.raises(UserError, match=r"x\.json"):
        inputs(SOURCE.validate_python({"type": "coco", "path": str(tmp_path / "x.json")}), tmp_path)


def folder(path: Path, **files: bytes) -> Path:
    for name, data in {"b/1.png": png(1), "b.png": png(2), "a.PNG": png(3), **files}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
        (path / name).with_suffix(".txt").write_text(f"text of {name}")
    return path


def test_a_folder_is_in_the_order_of_its_names_and_its_identity_is_its_content(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one"), folder(tmp_path / "elsewhere" / "other")
    found = rows(SOURCE.validate_python({"type": "folder", "path": str(one)}), tmp_path)
    names = [str(p.relative_to(one)) for p in sorted(p for p in one.rglob("*") if p.suffix.lower() == ".png")]
    assert [r.provenance["file"] for r in found] == names

    def identity(path: Path) -> str:
        return inputs(SOURCE.validate_python({"type": "folder", "path": str(path)}), tmp_path)[0].identity

    assert identity(one) == identity(other)
    (other / "b.txt").write_text("another text")
    assert identity(one) != identity(other)


def saved(path: Path, count: int) -> Path:
    """A `save_to_disk` folder, as the datasets library lays it out."""
    path.mkdir()
    names = []
    for part in range(2):
        names.append(f"data-0000{part}-of-00002.arrow")
        cells = [{"bytes": png(part * count + n), "path": None} for n in range(count)]
        data = pa.table({"image": cells, "text": [f"text {part * count + n}" for n in range(count)]})
        with pa.OSFile(str(path / names[-1]), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as writer:
            writer.write_table(data, max_chunksize=2)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return path


def test_save_to_disk_is_read_in_place(tmp_path: Path) -> None:
    path = saved(tmp_path / "set", 5)
    found = inputs(table(path), tmp_path)
    assert [(item.rows, item.spool) for item in found] == [(5, None), (5, None)]
    records = rows(table(path), tmp_path)
    assert [r.text for r in records] == [f"text {n}" for n in range(10)]
    assert [data_of(r.images[0]) if r.images[0].data is None else r.images[0].data for r in records] == [
        png(n) for n in range(10)
    ]
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UserError, match="train"):
        inputs(table(tmp_path / "dict"), tmp_path)


def test_a_dataset_of_the_hub_is_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network here: the Hub's file system stands for one in memory with the same paths."""
    from data_pipeline.ingest.sources import finding
    from data_pipeline.storage import Stat

    asked: list[str] = []

    def listed(pattern: str) -> list[Any]:
        asked.append(pattern)
        names = [f"hf://datasets/me/set/data/train-0000{n}-of-00002.parquet" for n in (0, 1)]
        return [Stat(name, 10, "x") for name in names] if pattern.endswith(".parquet") else []

    monkeypatch.setattr(finding, "glob", listed)
    found = finding.find_files(("hf://datasets/me/set",), finding.TABLES)
    assert [one.name for one in found] == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert {one.kind for one in found} == {"parquet"} and asked[0].startswith("hf://datasets/me/set")


MEASURED = """
import resource, sys
from configs.ingest import TableSource
from data_pipeline.ingest.sources.inputs import find_inputs, list_input
import pyarrow.parquet, pyarrow.csv
path, spool, small = sys.argv[1:]
def count(path):
    source = TableSource(path=path)
    return list_input(source, find_inputs(source)[0], spool).rows
count(small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = count(path)
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_long_list_is_counted_in_little_memory(ending: str, tmp_path: Path) -> None:
    """150,000 rows (20 MB) cost 3 to 9 MB measured; a list of all records would cost more than 150."""

    def write(path: Path, count: int) -> None:
        with open(path, "w") as file:
            if ending == "csv":
                file.write("url,caption\n")
            for n in range(count):
                row = {"url": f"https://example.org/{n}.jpg", "caption": f"the words of row {n} " * 4}
                file.write(json.dumps(row) + "\n" if ending == "jsonl" else f"{row['url']},{row['caption']}\n")

    write(tmp_path / f"small.{ending}", 3000)
    write(tmp_path / f"large.{ending}", 150_000)
    names = [str(tmp_path / f"large.{ending}"), str(tmp_path / "spool"), str(tmp_path / f"small.{ending}")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *names], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    count, grown = map(int, done.stdout.split())
    assert count == 150_000
    assert grown < 60, f"{grown} MB"


def test_a_picture_without_its_sidecar_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.png").write_bytes(png(1))
    assert problems(rows(SOURCE.validate_python({"type": "folder", "path": str(tmp_path / "f")}), tmp_path)) == [
        "source/no_sidecar"
    ]
