"""csv, tsv, JSON lines and JSON lists: every row once, in order; what is broken costs its own row, or a sentence."""

import gzip
import json
from pathlib import Path

import pytest

from configs.errors import UserError
from data_pipeline.ingest.sources import lines
from data_pipeline.ingest.sources.inputs import find_inputs
from tests.data_pipeline.ingest.sources.conftest import problems, rows, table

CSV = 'url,caption,similarity\nhttp://x/1.jpg,"one, with a comma",0.31\nhttp://x/2.jpg,"two\nlines ""quoted""",0.2\n'


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("ending", "mark"), [("csv", ","), ("tsv", "\t")])
def test_separated_values_with_quotes_and_line_breaks(tmp_path: Path, ending: str, mark: str, packed: bool) -> None:
    text = CSV.replace(",", mark).replace(f"one{mark} with", "one, with").encode()
    path = tmp_path / (f"rows.{ending}.gz" if packed else f"rows.{ending}")
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text) if packed else text.replace(b"\n", b"\r\n"))
    made = rows(table(path), tmp_path, frozenset({"similarity"}))
    assert [r.text for r in made] == ["one, with a comma", 'two\nlines "quoted"' if packed else 'two\r\nlines "quoted"']
    assert [r.images[0].path for r in made] == ["http://x/1.jpg", "http://x/2.jpg"]
    assert [r.provenance for r in made] == [{"line": 2, "url": "http://x/1.jpg"}, {"line": 3, "url": "http://x/2.jpg"}]
    assert [r.columns for r in made] == [{"similarity": "0.31"}, {"similarity": "0.2"}]


def test_a_broken_csv_row_costs_itself_alone(tmp_path: Path) -> None:
    lines_of = [
        b"url,caption",
        b"http://x/1,good 1",
        b"http://x/2",
        b"http://x/3,a,b",
        b'http://x/4,"never closed',
        b"http://x/5,good 5",
        b"http://x/6,\xff\xfe",
        b"http://x/7,nul \0 inside",
        b"",
        b'http://x/8,"two',
        b'lines"',
        b"http://x/9,cr \r inside",
        b"http://x/10,good 10",
    ]
    (tmp_path / "rows.csv").write_bytes(b"\n".join(lines_of) + b"\n")
    made = rows(table(tmp_path / "rows.csv"), tmp_path)
    bad = {3: "1 fields", 4: "3 fields", 5: None, 7: "UTF-8", 12: None}
    assert {r.provenance["line"] for r in made if r.problem} == set(bad)
    for record in made:
        if record.problem:
            assert (record.problem.stage, record.problem.reason) == ("source", "bad_row")
            assert (bad[record.provenance["line"]] or "") in record.problem.detail
    good = {r.provenance["line"]: r.text for r in made if not r.problem}
    assert good == {2: "good 1", 6: "good 5", 8: "nul \0 inside", 10: "two\nlines", 13: "good 10"}


def test_an_open_quote_takes_no_more_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_RECORD", 1000)
    text = [
        'url,caption\nhttp://x/0,"open\n',
        *(f"http://x/{n},text {n}\n" for n in range(1, 400)),
        'http://x/z,"last\n',
    ]
    text.insert(50, f"http://x/long,{'x' * 3000}\n")
    (tmp_path / "rows.csv").write_text("".join(text))
    made = rows(table(tmp_path / "rows.csv"), tmp_path)
    assert [r.problem.detail for r in made if r.problem] == [
        "a quote is not closed",
        "the line is longer than 1,000 bytes",
        "a quote is not closed",
    ]
    assert [r.text for r in made if not r.problem] == [f"text {n}" for n in range(1, 400)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is empty: its first line names its columns"),
        (b"\n", "names no columns"),
        (b"url,url\n", "or two alike"),
        ("url,caption".encode("utf-16"), "is no header"),
        (b"link,words\nhttp://x/1,a\n", r"no text column that I know.*\['link', 'words'\]"),
        (b"http://x/1.jpg\ta caption\n", "no text column that I know"),
        (b"link,caption\nhttp://x/1,a\n", "'link' may be one: name it with image_column"),
    ],
)
def test_a_bad_header_is_a_sentence(tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "rows.csv").write_bytes(text + (b"x,y\n" if text.startswith(b"http") else b""))
    with pytest.raises(UserError, match=says):
        rows(table(tmp_path / "rows.csv"), tmp_path)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("key", ["image_column", "text_column", "keep_columns", "where"])
def test_a_named_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path, ending: str, key: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"rows.{ending}"
    if ending == "csv":
        path.write_text(CSV)
    elif ending == "jsonl":
        path.write_text('{"url": "http://x/1", "caption": "a", "similarity": 1}\n')
    else:
        pq.write_table(pa.table({"url": ["http://x/1"], "caption": ["a"], "similarity": [1.0]}), path)
    value = {"keep_columns": ["captoin"], "where": {"captoin": "a"}}.get(key, "captoin")
    says = r"rows\.\w+ has no column 'captoin': it has \['url', 'caption', 'similarity'\]; did you mean 'caption'\?"
    with pytest.raises(UserError, match=says):
        rows(table(path, **{key: value}), tmp_path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_misspelt_column_of_a_filter_is_found_when_rows_are_read(tmp_path: Path, ending: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"rows.{ending}"
    path.write_text(CSV)
    if ending == "parquet":
        pq.write_table(pa.table({"url": ["http://x/1"], "caption": ["a"], "similarity": [1.0]}), path)
    with pytest.raises(UserError, match=r"no column 'similarty': .* did you mean 'similarity'\?"):
        rows(table(path), tmp_path, frozenset({"similarty"}))


def test_json_lines(tmp_path: Path) -> None:
    given = [
        b'{"url": "http://x/1", "text": "caf\xc3\xa9", "n": 1.5, "flag": true, "deep": {"a": 1}}',
        b"",
        b"{",
        b'["a list"]',
        b'{"url": "http://x/2", "text": 7}',
        b'{"url": "http://x/3", "text": "half \\ud83d a pair"}',
        b'{"url": "http://x/4", "text": "\xff"}',
        b"[" * 100_000,
        b'{"url": "http://x/5", "text": "nan", "n": NaN}',
        b'{"url": null, "text": "no picture"}',
        b'{"text": "text alone"}',
        b'{"url": ["http://x/6", "http://x/7"], "text": "two"}',
        b'{"url": [], "text": "none on purpose"}',
        b'{"url": ["http://x/6", null], "text": "one and a gap"}',
        b'{"url": {"path": "http://x/8"}, "text": "as a struct"}',
        b'{"url": 8, "text": "a number"}',
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\r\n".join(given))
    made = rows(table(tmp_path / "rows.jsonl"), tmp_path, frozenset({"n", "flag"}))
    assert [r.provenance["line"] for r in made] == [1, *range(3, 17)]
    bad, no_image = "source/bad_json", "source/no_image"
    assert problems(made) == [
        *(None, bad, bad, bad, None, bad, bad, None),
        *(no_image, None, None, None, no_image, None, "source/bad_image"),
    ]
    assert (made[0].text, made[0].columns) == ("caf\u00e9", {"n": 1.5, "flag": True})
    assert made[4].text == "half \ufffd a pair"
    assert made[7].columns == {"n": None, "flag": None}
    assert [len(r.images) for r in made if not r.problem] == [1, 1, 1, 0, 2, 0, 1]


def test_a_json_line_longer_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_LINE", 500)
    line = '{"url": "http://x/1", "text": "short"}\n'
    (tmp_path / "rows.jsonl").write_text(line + json.dumps({"text": "x" * 5000}) + "\n" + line)
    made = rows(table(tmp_path / "rows.jsonl"), tmp_path)
    assert problems(made) == [None, "source/bad_json", None] and "500 bytes" in str(made[1].problem)


@pytest.mark.parametrize("packed", [False, True])
def test_a_list_in_a_json_file_is_read_item_by_item(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.ingest.sources.json_stream.CHUNK", 7)  # every value is cut somewhere
    given = [{"image": f"http://x/{n}", "text": "\u4e2d\u6587 " * n, "n": -12345 - n} for n in range(40)]
    data = b"  \n" + json.dumps([*given[:20], 17, *given[20:]], ensure_ascii=False, indent=1).encode()
    path = tmp_path / ("rows.json.gz" if packed else "rows.json")
    path.write_bytes(gzip.compress(data) if packed else data)
    made = rows(table(path), tmp_path, frozenset({"n"}))
    assert problems(made) == [None] * 20 + ["source/bad_json"] + [None] * 20
    assert [(r.text, r.columns["n"]) for r in made if not r.problem] == [(g["text"], g["n"]) for g in given]
    assert [r.provenance for r in made] == [{"row": n} for n in range(41)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"image": "http://x/1", "text": "a"}, {"image"', r"not whole JSON behind row 0 .*broken or cut"),
        ('[{"image": "http://x/1", "text": "a"}] {', "something follows the end"),
        ('[{"image": "http://x/1", "text": "a"} {"b"', "']' is missing"),
        ("[" * 200_000, "nested too deeply"),
        ('{"data": [\n1]}', "neither a JSON list of rows nor one JSON object a line"),
        ('[{"img": "http://x/1", "text": "a"}]', "'img' may be one: name it with image_column"),
        ('[{"words": "a"}]', "no text column that I know"),
    ],
)
def test_a_bad_json_file_is_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UserError, match=says):
        rows(table(tmp_path / "rows.json"), tmp_path)


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"url": "http://x/1", "text": "a"}\n{"url": "http://x/2", "text": "b"}\n')
    assert [r.text for r in rows(table(tmp_path / "rows.json"), tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("cut", [10, -6])
@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.jsonl.gz", "rows.json.gz"])
def test_a_cut_gzip_is_a_sentence(tmp_path: Path, name: str, cut: int) -> None:
    text = json.dumps([{"url": "http://x/1", "text": "a"}] * 1000) if "json." in name else CSV * 1000
    (tmp_path / name).write_bytes(gzip.compress(text.encode())[:cut])
    with pytest.raises(UserError, match=r"rows\.\w+\.gz is no whole gzip file .* again"):
        rows(table(tmp_path / name), tmp_path)
    (tmp_path / name).write_text("plain")
    with pytest.raises(UserError, match="no whole gzip file"):
        rows(table(tmp_path / name), tmp_path)


def test_where_rejects_rows_and_keeps_their_place(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("url,caption,lang\nhttp://x/1,a,en\nhttp://x/2,b,de\nhttp://x/3,c,en\n")
    made = rows(table(tmp_path / "rows.csv", where={"lang": "en"}), tmp_path)
    assert problems(made) == [None, "filter/where", None]
    assert made[1].problem is not None and made[1].problem.detail == "lang=de"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text(CSV)

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(lines, "open_stream", refuse)
    source = table(tmp_path / "rows.csv")
    assert len(find_inputs(source)) == 1
    with pytest.raises(UserError, match=r"rows\.csv may not be read: give this user the right to"):
        rows(source, tmp_path)
