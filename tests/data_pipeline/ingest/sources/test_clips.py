"""A video as a folder of frames: which frames, what stands for a sample, and a build of them that a run reads."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.ingest import FolderSource
from data_pipeline.ingest.job import build
from data_pipeline.ingest.sources.clips import frames_of
from data_pipeline.ingest.verify import verify
from data_pipeline.storage import put
from data_pipeline.stream.read.dataset import Dataset
from tests.data_pipeline.conftest import build_recipe, contents
from tests.data_pipeline.ingest.sources.conftest import SOURCE, data_of, inputs, png, problems, rows


@pytest.mark.parametrize(
    ("there", "most", "chosen"),
    [(8, 4, [1, 3, 5, 7]), (9, 3, [1, 4, 7]), (10, 4, [1, 3, 6, 8]), (3, 8, [0, 1, 2]), (5, 1, [2]), (0, 4, [])],
)
def test_frames_are_the_middles_of_equal_parts(there: int, most: int, chosen: list[int]) -> None:
    names = [f"frame{n}.png" for n in range(there)]
    assert frames_of(reversed(names), most) == [names[n] for n in chosen]


def test_frames_stand_in_the_order_of_their_numbers() -> None:
    names = ["f10.png", "f9.png", "f2.png", "f\u00b2.png", "f010.png", "10.png", "9.png"]
    assert frames_of(names, 9) == ["9.png", "10.png", "f2.png", "f9.png", "f010.png", "f10.png", "f\u00b2.png"]


def clip(folder: Path, name: str, count: int, text: str | None = None, first: int = 0) -> None:
    """A folder of `count` frames: frame n is picture first + n."""
    (folder / name).mkdir(parents=True)
    for n in range(count):
        (folder / name / f"frame{n + 1}.png").write_bytes(png(first + n))
    if text is not None:
        (folder / f"{name}.txt").write_text(text)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two captions, a conversation, and one row for each thing that can be wrong."""
    folder = tmp_path / "videos"
    clip(folder, "cat", 12, "a cat walks")
    clip(folder, "day.2/dog", 3, "a dog sits", 20)
    clip(folder, "talk", 5, None, 30)
    asked = {"role": "user", "content": "<image><image>what happens?"}
    (folder / "talk.json").write_text(json.dumps({"messages": [asked, {"role": "assistant", "content": "a fall"}]}))
    clip(folder, "unsaid", 2)
    clip(folder, "none", 0, "text of nothing")
    clip(folder, "torn", 2, "a link to nowhere")
    (folder / "torn" / "frame1.png").unlink()
    (folder / "torn" / "frame1.png").symlink_to("nowhere.png")
    (folder / "alone.png").write_bytes(png(99))
    (folder / "alone.txt").write_text("a picture beside the clips")
    return folder


def test_a_folder_of_frames_is_one_record(videos: Path, tmp_path: Path) -> None:
    found = rows(SOURCE.validate_python({"type": "folder", "path": str(videos), "frames": 4}), tmp_path)
    assert [r.provenance["file"] for r in found] == [".", "cat", "day.2/dog", "none", "talk", "torn", "unsaid"]
    told = [None, None, "source/no_image", None, "source/not_a_file", "source/no_sidecar"]
    assert problems(found) == ["source/no_sidecar", *told]
    assert [data_of(image) for image in found[1].images] == [png(n) for n in (1, 4, 7, 10)]
    assert [data_of(image) for image in found[2].images] == [png(n) for n in (20, 21, 22)]


def test_a_build_of_frames_is_a_dataset_of_several_pictures(videos: Path, tmp_path: Path, here: None) -> None:
    out = tmp_path / "out"
    source = {"type": "folder", "path": str(videos), "frames": 2}
    images = {"mode": "none", "format": "png"}
    manifest = build(build_recipe(source, out, images=images), progress=False)
    assert (manifest.totals["rows"], manifest.totals["kept"]) == (7, 3)
    dataset = Dataset(str(out))
    assert [dataset.conversation(n).text for n in (0, 1)] == ["a cat walks", "a dog sits"]
    assert list(dataset.read(0).images) == [png(3), png(9)]
    asked = dataset.conversation(2).messages
    assert asked is not None and asked[0].content == "<image><image>what happens?"
    assert verify(str(out)).problems == []
    before = contents(out)
    clip(videos, "bird", 4, "a bird flies", 50)
    (videos / "cat" / "frame13.png").write_bytes(png(60))
    extended = build(build_recipe(source, out, images=images), progress=False, extend=True)
    assert extended.totals["kept"] == 4, "the new clip, and not the old one with its new frame once more"
    assert Dataset(str(out)).conversation(3).text == "a bird flies"
    assert contents(out)["00000.tar"] == before["00000.tar"]


def test_other_frames_are_another_build_and_none_is_what_it_was(videos: Path, tmp_path: Path) -> None:
    def identity(**frames: int) -> str:
        return inputs(SOURCE.validate_python({"type": "folder", "path": str(videos), **frames}), tmp_path)[0].identity

    assert len({identity(), identity(frames=2), identity(frames=4)}) == 3
    assert "frames" not in FolderSource(path="x").model_dump(), "datasets of before keep their fingerprint"
    with pytest.raises(ValidationError, match="frames"):
        FolderSource(path="x", frames=0)


def test_a_bucket_gives_the_clips_that_a_disk_gives(s3_folder: str, tmp_path: Path) -> None:
    disk = tmp_path / "videos"
    clip(disk, "b", 11, "second", 10)
    clip(disk, "a/c", 3, "first")
    clip(disk, "unsaid", 2)
    for path in disk.rglob("*.*"):
        put(f"{s3_folder}/videos/{path.relative_to(disk)}", path.read_bytes())

    def told(folder: str) -> list[object]:
        found = rows(SOURCE.validate_python({"type": "folder", "path": folder, "frames": 4}), tmp_path)
        frames = [tuple(image.path.removeprefix(folder) for image in r.images) for r in found]
        return [*zip([r.provenance["file"] for r in found], [r.text for r in found], frames, strict=True)]

    assert told(f"{s3_folder}/videos") == told(str(disk))
    assert [name for name, _, _ in told(str(disk))] == ["a/c", "b", "unsaid"]  # type: ignore[misc]
