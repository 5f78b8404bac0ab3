"""Builds from a real S3 server and into it: the bytes of a local build, also after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from data_pipeline import storage
from data_pipeline.ingest.job import build
from data_pipeline.ingest.verify import verify
from data_pipeline.storage import join, listdir, put, read_bytes
from data_pipeline.stream.read.dataset import Dataset
from tests.data_pipeline.conftest import build_recipe, contents, encoded, noise
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.usefixtures("here")
SAME = (".tar", ".index.parquet", ".outcomes.parquet", "statistics.json", "statistics.parquet")


def fill(folder: str, count: int) -> None:
    """Pictures, and lists of them: some are not there, two are equal."""
    for number in range(count):
        put(join(folder, f"p/{number}.png"), encoded(noise(number - (number == 9), 40, 30)))
    rows = [{"image": f"p/{number}.png", "text": f"number {number}"} for number in range(count + 2)]
    for part in (0, 1):
        lines = [json.dumps(row) for row in rows[part::2]]
        put(join(folder, f"rows-{part}.jsonl"), "\n".join(lines).encode())


def recipe_of(source: str, output: str, endpoint: str | None = None) -> Any:
    table = {"type": "table", "path": f"{source}/rows-*.jsonl", "image_root": source}
    more: dict[str, Any] = {"dedup": {"exact": "image"}, "storage": {"endpoint_url": endpoint}, "fetch": {"retries": 0}}
    return build_recipe(table, output, **more)  # type: ignore[arg-type]


def found(folder: str) -> dict[str, bytes]:
    return {name: read_bytes(join(folder, name)) for name in listdir(folder) if name.endswith(SAME)}


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_from_s3_into_s3_as_from_disk_to_disk(s3: S3Server, s3_folder: str, tmp_path: Path) -> None:
    fill(s3_folder, 16)
    fill(str(tmp_path / "source"), 16)
    build(recipe_of(str(tmp_path / "source"), str(tmp_path / "out")), progress=False)
    wanted = {name: data for name, data in contents(tmp_path / "out").items() if name.endswith(SAME)}
    output = f"{s3_folder}/out"
    recipe = recipe_of(s3_folder, output, s3.endpoint_url)
    manifest = build(recipe, progress=False)
    assert manifest.totals["rejected"] == {"dedup/exact": 1, "fetch/not_found": 2}
    assert found(output) == wanted
    assert not storage.glob(join(join(output, "work"), "**")) and not storage.exists(f"{output}/build.json")
    assert verify(output).problems == []
    assert Dataset(output).conversation(0).text == "number 0"
    assert build(recipe, progress=False).reused
    secrets = (s3.secret, s3.key)
    texts = [read_bytes(join(output, name)).decode("utf-8", "replace") for name in listdir(output) if "." in name]
    assert not any(secret in text for secret in secrets for text in texts), "a key stands in the dataset"


@pytest.mark.parametrize("after", [1, 4, 8, 14, 22])
def test_killed_on_s3_the_same_bytes(after: int, s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_pipeline.ingest import cut, folder, publish, stock, unit_file

    fill(s3_folder, 16)
    recipe = recipe_of(s3_folder, f"{s3_folder}/out", s3.endpoint_url)
    build(recipe, progress=False)
    wanted = found(f"{s3_folder}/out")
    storage.remove_tree(f"{s3_folder}/out")
    count = 0

    def killed(real: Any) -> Any:
        def publish(*args: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count > after:
                raise Killed
            return real(*args, **more)

        return publish

    with monkeypatch.context() as patch:
        for module in (cut, folder, publish, stock, unit_file):
            for name in ("put", "put_file"):
                if hasattr(module, name):
                    patch.setattr(module, name, killed(getattr(module, name)))
        with pytest.raises(Killed):
            build(recipe, progress=False)
    assert not storage.exists(f"{s3_folder}/out/manifest.json")
    build(recipe, progress=False)
    assert found(f"{s3_folder}/out") == wanted


def test_keys_that_may_not_write_are_one_sentence(
    s3: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(s3_folder, 3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.read_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.read_secret)
    with pytest.raises(UserError) as caught:
        build(recipe_of(s3_folder, f"{s3_folder}/out", s3.endpoint_url), progress=False)
    said = str(caught.value)
    assert "\n" not in said and "out/build.json" in said and s3.read_secret not in said
