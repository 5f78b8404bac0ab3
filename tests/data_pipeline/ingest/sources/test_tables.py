"""Parquet and Arrow in place: any run of rows, pictures as cells, in memory of a few batches; damage is a sentence."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import UserError
from data_pipeline.ingest.sources import stored, windows
from data_pipeline.ingest.sources.inputs import find_inputs, list_input
from data_pipeline.ingest.sources.reading import read_cell, read_records
from tests.data_pipeline.ingest.sources.conftest import data_of, inputs, png, problems, rows, table

PICTURES = [png(n) for n in range(7)]


def write(path: Path, columns: dict[str, Any], kind: str, group: int = 3) -> Path:
    """A table as parquet, or as the Arrow stream or file of the same batches."""
    made = pa.table(columns)
    path = path.with_suffix(".parquet" if kind == "parquet" else ".arrow")
    if kind == "parquet":
        pq.write_table(made, path, row_group_size=group)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(str(path), made.schema) as writer:
            writer.write_table(made, max_chunksize=group)
    return path


def cells(kind: str) -> Any:
    """Seven pictures in a column of some type; the third is null."""
    given = [data if n != 2 else None for n, data in enumerate(PICTURES)]
    if kind == "bytes":
        return pa.array(given)
    if kind == "large":
        return pa.array(given, pa.large_binary())
    structs = [{"bytes": data, "path": f"{n}.png"} if data else None for n, data in enumerate(given)]
    if kind == "struct":
        return pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.array([[one] if one else [] for one in structs])


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
@pytest.mark.parametrize("column", ["bytes", "large", "struct", "list"])
def test_pictures_in_the_table(tmp_path: Path, kind: str, column: str) -> None:
    texts = [f"text {n}" for n in range(7)]
    path = write(tmp_path / "rows", {"image": cells(column), "text": texts, "id": list(range(7))}, kind)
    (item,) = inputs(table(path), tmp_path)
    assert (item.rows, item.spool) == (7, None)
    made = rows(table(path), tmp_path)
    # An empty list says that there is no picture; a null that it is missing.
    gap = None if column == "list" else "source/no_image"
    assert problems(made) == [None, None, gap, None, None, None, None]
    assert [r.text for r in made if r.images] == [t for n, t in enumerate(texts) if n != 2]
    assert [data_of(r.images[0]) for r in made if r.images] == [p for n, p in enumerate(PICTURES) if n != 2]
    assert [r.provenance for r in made] == [{"id": n, "row": n} for n in range(7)]
    backwards = [ref for r in reversed(made) for ref in r.images]
    assert [data_of(ref) for ref in backwards] == [p for n, p in reversed(list(enumerate(PICTURES))) if n != 2]


@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_several_pictures_and_places_of_a_list(tmp_path: Path, kind: str) -> None:
    images = [
        [{"bytes": PICTURES[0], "path": None}, {"bytes": PICTURES[1], "path": "x"}],
        None,
        [],
        [{"bytes": b"", "path": ""}],
    ]
    path = write(tmp_path / "rows", {"images": images, "text": ["a", "b", "c", "d"]}, kind)
    made = rows(table(path), tmp_path)
    assert problems(made) == [None, "source/no_image", None, None]
    assert [data_of(ref) for ref in made[0].images] == PICTURES[:2]
    assert data_of(made[3].images[0]) == b"" and made[2].images == ()


@pytest.mark.parametrize("group", [1, 2, 7])
def test_structs_of_bytes_or_urls(tmp_path: Path, group: int) -> None:
    """Which of the two a row has may change within a group, or from group to group."""
    image = [
        {"bytes": PICTURES[0], "path": "0.png"},
        {"bytes": None, "path": "http://x/1.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": PICTURES[4], "path": None},
        {"bytes": None, "path": "s3://b/5.png"},
        {"bytes": None, "path": "/etc/passwd"},
    ]
    path = write(tmp_path / "rows", {"image": image, "text": ["t"] * 7}, "parquet", group)
    made = rows(table(path), tmp_path)
    gap = "source/no_image"
    assert problems(made) == [None, None, gap, gap, None, None, "source/no_image_root"]
    assert [data_of(made[n].images[0]) for n in (0, 4)] == [PICTURES[0], PICTURES[4]]
    assert [made[n].images[0].path for n in (1, 5)] == ["http://x/1.png", "s3://b/5.png"]


def test_urls_in_a_column_and_any_other_types(tmp_path: Path) -> None:
    columns = {
        "URL": ["http://x/0", None, " HTTPS://x/2 ", ""],
        "TEXT": pa.array(["zero", "one", None, "three"], pa.large_string()),
        "id": [Decimal("1.00"), Decimal("2.50"), None, Decimal("4")],
        "key": pa.array(
            [datetime.datetime(2020, 1, n, tzinfo=datetime.UTC) for n in (1, 2, 3, 4)], pa.timestamp("ns", "Mars/X")
        ),
        "label": [datetime.date(2020, 1, n) for n in (1, 2, 3, 4)],
        "source": [b"\xff", b"b", None, b"d"],
        "license": [float("nan"), float("inf"), 1.5, None],
        "similarity": pa.array([0.3, 0.5, 0.1, None], pa.float32()),
        "kind": pa.array(["a", "b", "a", None]).dictionary_encode(),
    }
    path = write(tmp_path / "rows", columns, "parquet")
    made = rows(table(path), tmp_path, frozenset({"similarity", "kind"}))
    assert problems(made) == [None, "source/no_image", None, "source/no_image"]
    assert [r.images[0].path for r in made if r.images] == ["http://x/0", "https://x/2"]
    assert made[0].provenance == {
        "URL": "http://x/0",
        "id": 1,
        "key": "2020-01-01 00:00:00.000000000Z",
        "label": "2020-01-01",
        "license": None,
        "row": 0,
    }
    assert [r.provenance["id"] for r in made] == [1, 2.5, None, 4]
    assert [r.columns["kind"] for r in made] == ["a", "b", "a", None]
    assert [r.columns["similarity"] for r in made] == [pytest.approx(0.3), 0.5, pytest.approx(0.1), None]


def test_kept_columns_are_those_that_are_asked_for(tmp_path: Path) -> None:
    columns = {"url": ["http://x/0"], "text": ["a"], "id": [1], "deep": [{"a": [1, None], "b": b"x"}], "raw": [b"x"]}
    path = write(tmp_path / "rows", columns, "parquet")
    (record,) = rows(table(path, keep_columns=["deep", "raw"]), tmp_path)
    assert record.provenance == {"deep": {"a": [1, None], "b": None}, "row": 0}


def test_a_text_that_is_no_utf8_costs_its_own_row(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff\xfe", None, b"fine"])
    texts = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    path = write(tmp_path / "rows", {"url": [f"http://x/{n}" for n in range(4)], "text": texts}, "parquet")
    made = rows(table(path), tmp_path)
    assert problems(made) == [None, "source/bad_row", None, None]
    assert [r.text for r in made] == ["good", None, None, "fine"]


def test_texts_that_are_lists_numbers_or_bytes(tmp_path: Path) -> None:
    url = [f"http://x/{n}" for n in range(3)]
    path = write(tmp_path / "lists", {"url": url, "captions": [["first", "second"], [], None]}, "parquet")
    assert [r.text for r in rows(table(path), tmp_path)] == ["first", None, None]
    path = write(tmp_path / "numbers", {"url": url, "text": [1, 2, None]}, "parquet")
    assert problems(rows(table(path), tmp_path)) == ["source/text_not_string", "source/text_not_string", None]
    path = write(tmp_path / "bytes", {"url": url, "text": [b"caf\xc3\xa9", b"\xff", None]}, "parquet")
    assert [r.text for r in rows(table(path), tmp_path)] == ["caf\u00e9", "\ufffd", None]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"img": [b"x"], "text": ["a"]}, "'img' may be one: name it with image_column"),
        ({"picture": ["http://x"], "text": ["a"]}, "'picture' may be one"),
        ({"image": [b"x"], "words": ["a"]}, "no text column that I know: name it with text_column"),
        ({"image": [5], "text": ["a"]}, "column 'image' of .* is int64: name a column of bytes, URLs or paths"),
    ],
)
def test_columns_that_cannot_be_guessed(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        rows(table(write(tmp_path / "rows", columns, "parquet")), tmp_path)


def test_a_table_of_text_only(tmp_path: Path) -> None:
    made = rows(table(write(tmp_path / "rows", {"text": ["a", "b"], "lang": ["x", "y"]}, "parquet")), tmp_path)
    assert [(r.text, r.images, r.problem) for r in made] == [("a", (), None), ("b", (), None)]


@pytest.mark.parametrize("kind", ["parquet", "stream"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "cut early"])
def test_a_file_that_is_none_is_a_sentence(tmp_path: Path, kind: str, damage: str) -> None:
    path = write(tmp_path / "rows", {"image": PICTURES, "text": ["t"] * 7}, kind)
    data = path.read_bytes()
    cuts = {"empty": b"", "text": b"a,b\n1,2\n", "cut": data[: len(data) * 2 // 3], "cut early": data[:30]}
    path.write_bytes(cuts[damage])
    name = "a parquet file" if kind == "parquet" else "an Arrow file"
    with pytest.raises(UserError, match=rf"rows\.\w+ is not {name} \(.*\): give another, or fetch it again"):
        inputs(table(path), tmp_path)


def test_a_damaged_page_is_a_sentence_for_rows_and_an_oserror_for_a_cell(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows",
        {"image": [png(n) * 50 for n in range(7)], "text": [f"text {n}" * 50 for n in range(7)]},
        "parquet",
        7,
    )
    (item,) = inputs(table(path), tmp_path)
    (good,) = read_records(table(path), item, 0, 1, frozenset())
    data = bytearray(path.read_bytes())
    columns = pq.ParquetFile(path).metadata.row_group(0)
    for n in range(2):
        chunk = columns.column(n)
        start = chunk.data_page_offset if chunk.dictionary_page_offset is None else chunk.dictionary_page_offset
        data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is damaged in rows 0 to 7 .* again"):
        read_records(table(path), item, 0, 7, frozenset())
    with pytest.raises(OSError, match="row 0"):
        read_cell(good.images[0])


def test_arrow_offsets_that_point_anywhere_are_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", {"text": ["aaaa", "bbbb", "cccc"], "url": ["http://x"] * 3}, "stream")
    (item,) = inputs(table(path), tmp_path)
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 4, 8, 12))
    wild = b"".join(n.to_bytes(4, "little") for n in (0, 2**30, 8, 12))
    assert path.read_bytes().count(offsets) == 1
    path.write_bytes(path.read_bytes().replace(offsets, wild))
    with pytest.raises(UserError, match="is damaged in rows"):
        read_records(table(path), item, 0, 3, frozenset())


def test_a_cell_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    from data_pipeline.ingest.record import ImageRef

    path = write(tmp_path / "rows", {"image": [PICTURES[0], None], "text": ["a", "b"]}, "parquet")
    for ref in (ImageRef(str(path), 1, "image"), ImageRef(str(path), 5, "image"), ImageRef(str(path), 0, "text")):
        with pytest.raises(OSError, match=r"row|column"):
            read_cell(ref)
    with pytest.raises(OSError):
        read_cell(ImageRef(str(tmp_path / "gone.parquet"), 0, "image"))


def test_identity_is_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for kind in ("parquet", "stream", "file"):
        columns = {"image": PICTURES, "text": [f"text {n}" for n in range(7)]}
        here = inputs(table(write(tmp_path / "rows", columns, kind)), tmp_path)[0]
        there = inputs(table(write(tmp_path / "elsewhere" / "other", columns, kind)), tmp_path)[0]
        columns["text"][3] = "another text"
        changed = inputs(table(write(tmp_path / "rows", columns, kind)), tmp_path)[0]
        assert here.identity == there.identity != changed.identity and here.found.path != there.found.path


def test_rows_are_read_forwards_once_and_what_is_kept_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "BATCH_BYTES", 40_000)
    monkeypatch.setattr(windows, "KEEP_BYTES", 100_000)
    reads: list[tuple[int, int]] = []
    original = stored.ParquetStored.batches

    def counted(self: Any, row: int, columns: list[str]) -> Any:
        for first, batch in original(self, row, columns):
            reads.append((first, batch.num_rows))
            yield first, batch

    monkeypatch.setattr(stored.ParquetStored, "batches", counted)
    data = [bytes([n]) * 10_000 for n in range(64)]
    path = write(tmp_path / "rows", {"image": data, "text": ["t"] * 64}, "parquet", 32)
    item = list_input(table(path), find_inputs(table(path))[0], "")
    made = read_records(table(path), item, 0, 64, frozenset())
    reads.clear()
    assert [data_of(r.images[0]) for r in made] == data
    assert len(reads) == len(set(reads)) and sum(count for _, count in reads) == 64, "a part was read twice"
    kept = windows.window(str(path), ["image"])
    assert sum(batch.nbytes for _, batch in kept.kept) <= 140_000
    reads.clear()
    assert data_of(made[40].images[0]) == data[40]
    assert {first >= 32 for first, _ in reads} == {True}, "going back reads its own row group, not the whole file"


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", {"image": PICTURES[:1], "text": ["old"]}, "parquet")
    assert rows(table(path), tmp_path)[0].text == "old"
    write(tmp_path / "rows", {"image": PICTURES[1:2], "text": ["other"]}, "parquet")
    (record,) = rows(table(path), tmp_path)
    assert (record.text, data_of(record.images[0])) == ("other", PICTURES[1])
