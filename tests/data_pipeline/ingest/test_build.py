"""A build without Ray: conservation, the same bytes after any interruption, refusal, and reasons for what is bad."""

import contextlib
import json
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import RunError, UserError
from data_pipeline.ingest import assemble, job
from data_pipeline.ingest.job import build
from data_pipeline.ingest.tasks import InProcess
from data_pipeline.ingest.unit_file import UnitWriter
from data_pipeline.ingest.verify import verify
from data_pipeline.manifest import read_manifest
from data_pipeline.sample import Reject, key_of
from data_pipeline.shard import read_table
from data_pipeline.stream.read.dataset import Dataset
from tests.data_pipeline.conftest import build_recipe, contents, encoded, fill, noise, write_json

pytestmark = pytest.mark.usefixtures("here")
COMPOSE = {"pictures": [1, 1, 2, 3], "canvases": [[32, 32], [48, 32]]}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """23 good rows and nine bad ones, in between."""
    folder = tmp_path / "photos"
    fill(folder, 23)
    (folder / "p001b.png").write_bytes(b"")
    (folder / "p001b.txt").write_text("no bytes")
    (folder / "p003b.jpg").write_bytes(b"not a picture at all")
    (folder / "p003b.txt").write_text("text for nothing")
    (folder / "p005b.jpg").write_bytes(encoded(noise(1, 200, 200), "JPEG")[:5000])
    (folder / "p005b.txt").write_text("half a picture")
    noise(2).save(folder / "p007b.png")
    (folder / "p007b.txt").write_text("  \n")
    noise(3).save(folder / "p009b.png")
    for number, body in (
        (11, "{"),
        (13, '{"messages": [{"role": "user"}]}'),
        (15, '{"messages": [{"role": "user", "content": null}, {"role": "assistant", "content": 5}]}'),
        (17, '{"messages": [{"role": "system", "content": "<image>"}, {"role": "assistant", "content": "b"}]}'),
    ):
        noise(number).save(folder / f"p{number:03d}b.png")
        (folder / f"p{number:03d}b.json").write_text(body)
    return folder


REASONS = {
    "decode/empty": 1,
    "decode/not_a_picture": 1,
    "decode/corrupt": 1,
    "filter/empty_text": 1,
    "source/no_sidecar": 1,
    "source/bad_json": 3,
    "filter/no_answer": 1,
}


def test_every_row_is_kept_or_has_its_reason(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = build(build_recipe(mixed, out), progress=False)
    assert manifest.totals["rows"] == 32 and manifest.totals["kept"] == 23
    assert manifest.totals["rejected"] == REASONS
    rows = [
        r for e in manifest.shards for r in read_table((out / f"{e.name}.outcomes.parquet").read_bytes()).to_pylist()
    ]
    assert [row["position"] for row in rows] == list(range(32)), "a row is missing, twice, or out of order"
    assert Counter(f"{r['stage']}/{r['reason']}" for r in rows if r["outcome"] == "rejected") == REASONS
    keys = [
        k
        for e in manifest.shards
        for k in read_table((out / f"{e.name}.index.parquet").read_bytes())["key"].to_pylist()
    ]
    assert keys == [key_of(row["position"]) for row in rows if row["outcome"] == "kept"]
    assert [entry.samples for entry in manifest.shards] == [7, 7, 7, 2], "all shards but the last are full"
    assert verify(str(out)).problems == []
    others = sorted(path.name for path in out.iterdir() if path.suffix not in (".tar", ".parquet"))
    assert others == ["log", "manifest.json", "recipe.yaml", "statistics.json"]


def test_sidecars_of_any_kind(tmp_path: Path) -> None:
    """UTF-8 with and without its mark, whatever the locale; one that cannot be read costs its own row only."""
    photos = tmp_path / "photos"
    fill(photos, 4)
    (photos / "p000.txt").write_bytes("caf\u00e9 \u4e2d".encode())
    (photos / "p001.txt").write_bytes(b"\xef\xbb\xbfmarked")
    (photos / "p002.txt").unlink()
    (photos / "p002.txt").mkdir()
    out = tmp_path / "out"
    totals = build(build_recipe(photos, out), progress=False).totals
    assert totals["rejected"] == {"source/unreadable_sidecar": 1}
    dataset = Dataset(str(out))
    texts = [dataset.conversation(n).text for n in range(len(dataset))]
    assert texts == ["caf\u00e9 \u4e2d", "marked", "the noise number 3"]


def test_jsonl_counts_missing_pictures_and_odd_lines(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    lines = [
        {"image": "p000.png", "text": "good"},
        {"image": "gone.png", "text": "its picture is missing"},
        {"images": ["p001.png", "p002.png"], "text": "<image>one<image>two"},
        {"images": "p001.png", "text": "one path where a list could be"},
        {"image": None, "text": "no path"},
        {"image": "p001.png", "text": 7},
        ["a list"],
        {"image": "p001.png", "text": "<image><image>one mark too many"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    source = {"type": "table", "path": str(tmp_path / "rows.jsonl")}
    totals = build(build_recipe(source, tmp_path / "out"), progress=False).totals
    assert totals["kept"] == 3 and totals["pictures_per_sample"] == {"1": 2, "2": 1}
    assert totals["rejected"] == {
        "fetch/not_found": 1,
        "source/bad_json": 2,
        "source/no_image": 1,
        "filter/image_marks": 1,
    }


def test_parquet_of_any_column_types(tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    data = encoded(noise(0))
    table = pa.table(
        {
            "image": [data, data, None],
            "text": ["one", None, "three"],
            "id": [datetime.date(2020, 1, n) for n in (1, 2, 3)],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    source = {"type": "table", "path": str(tmp_path / "rows.parquet")}
    totals = build(build_recipe(source, tmp_path / "out"), progress=False).totals
    assert totals["rejected"] == {"source/no_image": 1, "filter/empty_text": 1} and totals["kept"] == 1
    (tmp_path / "rows.parquet").write_bytes(b"PAR?")
    with pytest.raises(UserError, match="is not a parquet file"):
        build(build_recipe(source, tmp_path / "out2"), progress=False)


def test_the_order_of_units_changes_nothing(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(build_recipe(mixed, tmp_path / "a", compose=COMPOSE), progress=False)

    class Shuffled(InProcess):
        """Whatever is to be run, in another order."""

        def run(self, function: Any, jobs: Any, cpus: float = 1.0) -> Any:
            listed = list(jobs)
            for place in np.random.default_rng(5).permutation(len(listed)):
                yield from super().run(function, [listed[place]], cpus)

    monkeypatch.setattr(job, "_runner", lambda config, log: contextlib.nullcontext(Shuffled()))
    build(build_recipe(mixed, tmp_path / "b", compose=COMPOSE, ray={"workers": 1}), progress=False)
    placed = ["manifest.json", "recipe.yaml", "inputs.parquet"]  # they say where the output is
    assert contents(tmp_path / "a", placed) == contents(tmp_path / "b", placed)
    first, second = read_manifest(str(tmp_path / "a")), read_manifest(str(tmp_path / "b"))
    assert (first.shards, first.totals, first.fingerprint) == (second.shards, second.totals, second.fingerprint)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


@pytest.mark.parametrize("after", [*range(14), 16, 19, 22, 25, 28, 30, 31, 32, 33])
def test_a_killed_build_goes_on_to_the_same_bytes(
    after: int, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of its `after`-th write: identity, listing, 8 units, 4 shards of 4 files, what describes it."""
    out = tmp_path / "out"
    recipe = build_recipe(mixed, out)
    build(recipe, progress=False)
    wanted = contents(out)
    shutil.rmtree(out)

    count = 0
    replace, link, unlink = os.replace, os.link, os.unlink

    def killed(real: Any) -> Any:
        def publish(source: str, target: str, **more: Any) -> None:
            nonlocal count
            if "/log/" in str(target):
                return real(source, target, **more)
            count += 1
            if count > after:
                raise Killed
            return real(source, target, **more)

        return publish

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed(replace))
        patch.setattr(os, "link", killed(link))
        patch.setattr(os, "unlink", lambda *args, **more: None if count > after else unlink(*args, **more))
        with pytest.raises(Killed):
            build(recipe, progress=False)
    assert not (out / "manifest.json").exists()
    assert any(path.name.startswith(".looksay-") for path in out.rglob("*")), "the kill left nothing half-written"
    there = {int(path.stem) for path in out.rglob("*.unit")}
    again: list[int] = []
    monkeypatch.setattr(assemble, "process_unit", _recorded(again, assemble.process_unit))
    build(recipe, progress=False)
    assert set(again) == set(range(8)) - there, "committed units were done again, or missing ones left out"
    assert contents(out) == wanted


def _recorded(seen: list[int], run: Any) -> Any:
    def recorded(work: Any, unit: Any, careful: bool = False) -> Any:
        seen.append(unit.number)
        return run(work, unit, careful)

    return recorded


def test_a_late_double_of_a_unit_changes_nothing(tmp_path: Path) -> None:
    """A unit that was thought lost and ends after all, with another answer: the first commit counts."""
    path, first, second = str(tmp_path / "0.unit"), UnitWriter(), UnitWriter()
    first.reject(0, Reject("fetch", "timeout", "20 s"))
    second.reject(0, Reject("fetch", "http_404", ""))
    assert not first.commit(path).reused
    late = second.commit(path)
    assert late.reused and dict(late.rejected) == {"fetch/timeout": 1}


def test_a_driver_that_was_thought_dead_leaves_the_build_to_the_other(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one driver stands still a second one is started: the first ends, and clears nothing away."""
    out, inner = tmp_path / "out", []
    recipe = build_recipe(mixed, out)
    real = assemble.count_units

    def stands_still(work: Any, numbers: range) -> Any:
        if not inner:
            inner.append(True)
            with monkeypatch.context() as patch:  # the second one is killed in its cut
                patch.setattr(assemble, "write_shard", _raises)
                with pytest.raises(Killed):
                    build(recipe, progress=False)
        return real(work, numbers)

    monkeypatch.setattr(assemble, "count_units", stands_still)
    with pytest.raises(RunError, match="was started again elsewhere"):
        build(recipe, progress=False)
    assert len(list(out.rglob("*.unit"))) == 8, "the first driver has cleared away what the second one needs"
    assert not build(recipe, progress=False).reused
    assert verify(str(out)).problems == []


def _raises(*args: Any) -> Any:
    raise Killed


def test_a_finished_build_is_reused(mixed: Path, tmp_path: Path) -> None:
    recipe = build_recipe(mixed, tmp_path / "out")
    assert not build(recipe, progress=False).reused
    before = contents(tmp_path / "out")
    begun = {"fingerprint": "", "recipe": {}}  # killed between the manifest and the tidying
    write_json(tmp_path / "out" / "build.json", begun)
    (tmp_path / "out" / "work").mkdir()
    assert build(recipe, progress=False).reused
    assert contents(tmp_path / "out") == before and not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize("name", ["notes.txt", "00000.tar", "rows.parquet", "work/mine.txt", "tokens/x"])
def test_a_folder_of_somebody_elses_is_refused(name: str, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds something else .{name.split('/')[0]}"):
        build(build_recipe(mixed, out), progress=False)
    assert contents(out) == {name: b"mine"}


@pytest.mark.parametrize("finished", [True, False])
def test_another_recipe_says_what_differs(finished: bool, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(build_recipe(mixed, out), progress=False)
    if not finished:
        manifest = read_manifest(str(out))
        write_json(out / "build.json", {"fingerprint": manifest.fingerprint, "recipe": manifest.recipe})
        (out / "manifest.json").unlink()
    before = contents(out)
    with pytest.raises(UserError, match="shard_size: 7 -> 9"):
        build(build_recipe(mixed, out, shard_size=9), progress=False)
    (mixed / "p000.txt").write_text("another caption")
    with pytest.raises(UserError, match="has other content" if finished else "the input rows .* are not the same"):
        build(build_recipe(mixed, out), progress=False)
    assert {name: data for name, data in contents(out).items() if name in before and name != "build.json"} == {
        name: data for name, data in before.items() if name != "build.json"
    }


def test_a_repaired_picture_is_seen(mixed: Path, tmp_path: Path) -> None:
    recipe = build_recipe(mixed, tmp_path / "out")
    build(recipe, progress=False)
    noise(9).save(mixed / "p001b.png")
    with pytest.raises(UserError, match="the source has other content"):
        build(recipe, progress=False)


def test_nothing_kept_is_an_error_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    noise(0).save(tmp_path / "photos" / "a.png")
    with pytest.raises(UserError, match=r"all 1 rows .* rejected: .*no_sidecar"):
        build(build_recipe(tmp_path / "photos", tmp_path / "out"), progress=False)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_webdataset_reads_the_tars(mixed: Path, tmp_path: Path) -> None:
    import webdataset

    out = tmp_path / "out"
    manifest = build(build_recipe(mixed, out, compose=COMPOSE, images={"format": "png"}), progress=False)
    urls = [str(out / f"{entry.name}.tar") for entry in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == manifest.totals["kept"]
    pictures = Counter(str(sum(name.endswith("png") for name in sample)) for sample in samples)
    assert pictures == manifest.totals["pictures_per_sample"] and set(pictures) == {"1", "2", "3"}
    index = [r for e in manifest.shards for r in read_table((out / f"{e.name}.index.parquet").read_bytes()).to_pylist()]
    for sample, row in zip(samples, index, strict=True):
        assert sample["__key__"] == row["key"]
        assert set(sample["json"]) == {"text", "provenance"}
        shapes = [value.shape for name, value in sorted(sample.items()) if name.endswith("png")]
        assert shapes == [(h, w, 3) for w, h in zip(row["width"], row["height"], strict=True)]
    with tarfile.open(urls[0]) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.mode, member.uname) == (0, 0, 0, 0o644, "")


def test_failed_rows_are_tried_again_into_new_shards(tmp_path: Path) -> None:
    """Every row counts once, by its latest outcome; what was there before stays byte for byte."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    fill(photos, 20)
    rows = [{"image": f"p{number:03d}.png", "text": f"number {number}"} for number in range(20)]
    rows[3]["image"] = rows[12]["image"] = "later.png"
    rows[15]["image"] = "never.png"
    (photos / "p007.png").write_bytes(b"junk")
    (photos / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = build_recipe({"type": "table", "path": str(photos / "rows.jsonl")}, out)
    manifest = build(recipe, progress=False)
    assert manifest.totals["rejected"] == {"decode/not_a_picture": 1, "fetch/not_found": 3}
    before = contents(out)
    assert build(recipe, progress=False, retry_failed=True).reused, "nothing could be had, and something was written"
    assert contents(out) == before
    noise(99).save(photos / "later.png")
    retried = build(recipe, progress=False, retry_failed=True)
    assert (retried.version, retried.totals["kept"]) == (2, 18)
    assert retried.totals["rejected"] == {"decode/not_a_picture": 1, "fetch/not_found": 1}
    assert verify(str(out)).problems == []
    after = contents(out)
    assert all(after[name] == data for name, data in before.items() if name.startswith("0"))
    new = read_table((out / f"{retried.shards[-1].name}.outcomes.parquet").read_bytes()).to_pylist()
    assert [(row["position"], row["outcome"]) for row in new] == [(3, "kept"), (12, "kept"), (15, "rejected")]
    noise(98).save(photos / "never.png")
    last = build(recipe, progress=False, retry_failed=True)
    assert (last.version, last.totals["kept"], last.totals["rejected"]) == (3, 19, {"decode/not_a_picture": 1})
    assert verify(str(out)).problems == [] and len(Dataset(str(out))) == 19
    assert build(recipe, progress=False, retry_failed=True).reused


def test_new_pictures_extend_a_folder(tmp_path: Path) -> None:
    """New pictures come behind the old ones wherever their names are; changed old ones are refused."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    fill(photos, 9)
    recipe = build_recipe(photos, out)
    before = {name: data for name, data in _after(recipe, out).items() if name.startswith("0")}
    assert build(recipe, progress=False, extend=True).reused
    for number in (0, 3):
        noise(50 + number).save(photos / f"p{number:03d}b.png")
        (photos / f"p{number:03d}b.txt").write_text(f"new {number}")
    with pytest.raises(UserError, match="take the new rows in with --extend"):
        build(recipe, progress=False)
    manifest = build(recipe, progress=False, extend=True)
    assert manifest.version == 2 and manifest.totals["kept"] == 11
    now = contents(out)
    assert all(now[name] == data for name, data in before.items())
    dataset = Dataset(str(out))
    assert [dataset.conversation(n).text for n in (9, 10)] == ["new 0", "new 3"]
    assert verify(str(out)).problems == []
    assert build(recipe, progress=False).reused and build(recipe, progress=False, extend=True).reused


def _after(recipe: Any, out: Path) -> dict[str, bytes]:
    build(recipe, progress=False)
    return contents(out)


def test_rows_added_to_a_file_extend_it(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 12)
    lines = [json.dumps({"image": f"p{number:03d}.png", "text": f"number {number}"}) for number in range(12)]
    path, out = tmp_path / "photos" / "rows.jsonl", tmp_path / "out"
    recipe = build_recipe({"type": "table", "path": str(path)}, out)
    path.write_text("\n".join(lines[:8]) + "\n")
    build(recipe, progress=False)
    path.write_text("\n".join(lines) + "\n")
    assert build(recipe, progress=False, extend=True).totals["kept"] == 12
    path.write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(UserError, match="cannot be extended"):
        build(recipe, progress=False, extend=True)
    assert verify(str(out)).problems == []


def test_what_is_published_is_not_dropped_for_new_rows(tmp_path: Path) -> None:
    """Duplicates name what they duplicate; the lowest position wins, but never over what is published."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    fill(photos, 10)
    rows = [{"image": f"p{number:03d}.png", "text": f"number {number}"} for number in (0, 1, 2, 1, 4, 4, 6)]
    rows[0]["image"] = "later.png"
    (photos / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "table", "path": str(photos / "rows.jsonl")}
    recipe = build_recipe(source, out, dedup={"exact": "image"})
    manifest = build(recipe, progress=False)
    assert manifest.totals["rejected"] == {"dedup/exact": 2, "fetch/not_found": 1}
    outcomes = read_table((out / "00000.outcomes.parquet").read_bytes()).to_pylist()
    dropped = {row["position"]: row["detail"] for row in outcomes if row["stage"] == "dedup"}
    assert dropped == {3: f"of {key_of(1)}", 5: f"of {key_of(4)}"}
    shutil.copy(photos / "p002.png", photos / "later.png")
    retried = build(recipe, progress=False, retry_failed=True)
    assert retried.reused, "row 0 is row 2's twin, and row 2 is published: nothing new is kept"
    assert verify(str(out)).problems == []
