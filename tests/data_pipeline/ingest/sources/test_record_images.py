"""What data may name: URLs of known schemes, and files below one folder. Everything else is refused with its reason."""

import json
import os
from pathlib import Path

import pytest

from data_pipeline.ingest.record import ImageRef
from data_pipeline.ingest.sources.record_images import Root
from data_pipeline.sample import Reject
from tests.data_pipeline.ingest.sources.conftest import problems, rows, table


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder of pictures with a secret beside it, and links that leave it."""
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "b.png").write_bytes(b"secret")
    for name in ("a.png", "below/b.png", "12:30.png", "caf\u00e9.png", "back\\slash.png"):
        (root / name).write_bytes(b"good")
    (root / "inner.png").symlink_to("a.png")
    (root / "leaves.png").symlink_to("../secret.png")
    (root / "folder").symlink_to("..")
    (root / "twice").symlink_to("folder")
    (root / "dangling.png").symlink_to("gone.png")
    (root / "dangles_out.png").symlink_to("../gone.png")
    os.mkfifo(root / "pipe.png")
    return root


@pytest.mark.parametrize(
    "text",
    ["a.png", " a.png\n", "./a.png", "below/b.png", "below//b.png", "12:30.png", "caf\u00e9.png", "inner.png"]
    + ["back\\slash.png", "gone.png", "gone/at/all.png", "dangling.png", "a.png/x"],
)
def test_paths_below_the_root(world: Path, text: str) -> None:
    ref = Root(str(world)).refer(text)
    assert isinstance(ref, ImageRef) and ref.path == os.path.join(world, text.strip())
    assert os.path.isabs(ref.path)


@pytest.mark.parametrize(
    "text",
    ["../secret.png", "below/../../secret.png", "below/../a.png", "..", "/etc/passwd", "//etc/passwd", "leaves.png"]
    + [
        "folder/secret.png",
        "twice/secret.png",
        "dangles_out.png",
        "a.png\0.jpg",
        "C:\\x.png",
        "c:/x.png",
        "../root2/b.png",
    ]
    + ["{world}2/b.png", "{world}/../secret.png", "{world}/leaves.png", "/proc/self/environ"],
)
def test_paths_that_leave_the_root(world: Path, text: str) -> None:
    found = Root(str(world)).refer(text.format(world=world))
    assert isinstance(found, Reject) and found.reason == "outside_image_root", found


def test_a_whole_path_inside_the_root_is_read(world: Path) -> None:
    assert Root(str(world)).refer(f"{world}/below/b.png") == ImageRef(f"{world}/below/b.png")
    (world.parent / "link").symlink_to(world)
    assert Root(str(world.parent / "link")).refer(f"{world}/a.png") == ImageRef(f"{world}/a.png")


@pytest.mark.parametrize("text", ["pipe.png", "below", "."])
def test_what_is_no_plain_file(world: Path, text: str) -> None:
    found = Root(str(world)).refer(text)
    assert isinstance(found, Reject) and found.reason == "not_a_file"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file:///etc/passwd", "file_url"),
        ("FILE:/etc/passwd", "file_url"),
        (" file:etc/passwd", "file_url"),
        ("ftp://x/a.png", "scheme"),
        ("data:image/png;base64,AAAA", "scheme"),
        ("pipe:touch x", "scheme"),
        ("http:x/a.png", "scheme"),
        ("local:///etc/passwd", "scheme"),
        ("memory://a.png", "scheme"),
        ("simplecache::http://x/a.png", "scheme"),
        ("s3://b/k::file:///etc/passwd", "scheme"),
        ("hf://x::file:///etc/passwd", "scheme"),
        ("zip://a.png::file:///x.zip", "scheme"),
        ("github://a:b@/x", "scheme"),
        ("img:1.png", "scheme"),
    ],
)
@pytest.mark.parametrize("root", [None, "."])
def test_urls_that_are_refused(text: str, reason: str, root: str | None) -> None:
    found = Root(root).refer(text)
    assert isinstance(found, Reject) and found.reason == reason


@pytest.mark.parametrize(
    "text",
    ["http://x/a.png", "https://[::1]/a.png?b=c#d", "s3://bucket/key a.png", "gs://b/k", "hf://datasets/a/b.png"],
)
@pytest.mark.parametrize("root", [None, ".", "s3://b/r"])
def test_urls_stay(text: str, root: str | None) -> None:
    assert Root(root).refer(text) == ImageRef(text)


def test_a_root_on_an_object_store() -> None:
    root = Root("s3://bucket/pictures/")
    assert root.refer("a/b.png") == ImageRef("s3://bucket/pictures/a/b.png")
    for text in ("/a.png", "../a.png", "a/../../b.png", "./a::file:///etc/passwd", "a\0b"):
        found = root.refer(text)
        assert isinstance(found, Reject) and found.reason == "outside_image_root", text


def test_text_that_is_no_utf8_never_reaches_a_path() -> None:
    assert Root(None).refer("http://x/\ud800.png") == ImageRef("http://x/\ufffd.png")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_only_json_has_a_folder_of_its_own(world: Path, tmp_path: Path, ending: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    given = [{"image": text, "text": "t"} for text in ("a.png", "../secret.png", "leaves.png", "file:///etc/passwd")]
    path = world / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(given), path)
    elif ending == "csv":
        path.write_text("image,text\n" + "".join(f"{row['image']},t\n" for row in given))
    else:
        path.write_text(json.dumps(given) if ending == "json" else "\n".join(json.dumps(row) for row in given))
    out = "source/outside_image_root"
    own = [None, out, out] if ending.startswith("json") else ["source/no_image_root", out, "source/no_image_root"]
    made = rows(table(path), tmp_path)
    assert problems(made) == [*own, "source/file_url"]
    if not ending.startswith("json"):
        assert "say with image_root what folder it is in" in str(made[0].problem)
    made = rows(table(path, image_root=str(world)), tmp_path)
    assert problems(made) == [None, out, out, "source/file_url"]
    assert Path(made[0].images[0].path).read_bytes() == b"good"
