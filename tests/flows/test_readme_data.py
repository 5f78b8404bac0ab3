"""The README's and docs/data.md's build commands as they stand there, with local stand-ins for what they name."""

import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.ingest.verify import verify
from data_pipeline.storage import put
from pretrain.cli.main import main
from tests.data_pipeline.conftest import encoded, fill, noise
from tests.flows.conftest import no_ray
from tests.support.hostile import HostileServer
from tests.support.s3_server import S3Server

ROOT = Path(__file__).resolve().parents[2]


def commands(name: str) -> list[str]:
    """The `looksay data build` lines of a page's code blocks."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)```", text, re.S)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("looksay data build") and "tiny" not in line]


def table(path: Path, columns: dict[str, list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def tar(key: str) -> bytes:
    import tarfile

    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in ((f"{key}.png", encoded(noise(1))), (f"{key}.txt", b"words of it")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


@pytest.fixture
def bucket(tmp_path: Path, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the pages' commands name, in the working folder and in this bucket."""
    monkeypatch.chdir(tmp_path)
    with HostileServer() as server:
        urls = [server.url(f"/good/{number}.jpg") for number in range(6)]
        laion = {
            "URL": urls,
            "TEXT": [f"text {n}" for n in range(6)],
            "similarity": [0.35] * 6,
            "NSFW": ["UNLIKELY"] * 6,
        }
        table(tmp_path / "laion-part-0.parquet", laion)  # type: ignore[arg-type]
        table(tmp_path / "laion" / "a.parquet", laion)  # type: ignore[arg-type]
        pictures = [{"bytes": encoded(noise(n)), "path": f"{n}.png"} for n in range(4)]
        table(tmp_path / "train-00000-of-00001.parquet", {"image": pictures, "text": ["a", "b", "c", "d"]})
        fill(tmp_path / "photos", 5)
        fill(tmp_path / "clips" / "cat", 9)
        (tmp_path / "clips" / "cat.txt").write_text("a cat walks")
        for folder in ("data", "train2017", "pictures"):
            fill(tmp_path / folder, 3)
        talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Noise."}]
        (tmp_path / "llava_v1_5_mix665k.json").write_text(
            json.dumps([{"id": str(n), "image": f"p00{n}.png", "conversations": talk} for n in range(3)])
        )
        coco = {"images": [{"id": n, "file_name": f"p00{n}.png"} for n in range(3)]}
        coco["annotations"] = [{"id": n, "image_id": n, "caption": f"caption {n}"} for n in range(3)]
        (tmp_path / "captions_train2017.json").write_text(json.dumps(coco))
        chosen = {"question": "What?", "chosen": "Noise.", "rejected": "A dog."}
        (tmp_path / "preferences.jsonl").write_text(
            "".join(json.dumps({"image": f"p00{n}.png", **chosen}) + "\n" for n in range(3))
        )
        listed = io.BytesIO()
        pq.write_table(pa.table({"url": urls, "caption": ["words"] * 6}), listed)
        put(f"{s3_folder}/urls-0.parquet", listed.getvalue())
        for number in range(100):
            put(f"{s3_folder}/cc12m-{number:04d}.tar", tar(f"{number:04d}"))
        yield s3_folder


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_the_pages_commands(page: str, bucket: str, s3: S3Server) -> None:
    done = 0
    for line in commands(page):
        if "saved_dataset" in line or "hf://" in line:
            continue  # tests of the sources have these two: they need the datasets library, and the Hub
        words = shlex.split(line.replace("s3://bucket", bucket).replace("http://127.0.0.1:8333", s3.endpoint_url))[1:]
        out = next((w for w in words[3:] if not w.startswith("-")), words[2])
        with no_ray():
            assert main([*words, "--allow-private", "--json"]) == 0, line
        folder = out if words[2] != "runs/laion/recipe.yaml" else "runs/laion"
        assert verify(folder).problems == [], line
        done += 1
    assert done >= 4, f"{page} has lost its commands"
