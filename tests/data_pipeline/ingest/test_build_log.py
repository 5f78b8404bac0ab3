"""The log folder of a build: it goes on after a kill, never fails the build, and reaches a remote output; the page."""

import errno
import json
import os
import uuid
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RunError
from data_pipeline.ingest import build_log, statistics
from data_pipeline.ingest.build_log import BuildLog
from data_pipeline.ingest.build_page import render
from data_pipeline.ingest.progress import Progress
from data_pipeline.ingest.tally import Tally
from data_pipeline.storage import exists, join, listdir, read_bytes
from tests.support.build_progress import Clock, lines_of, page_of, progress, scalars_of, work


@pytest.fixture
def clock() -> Clock:
    return Clock()


# ---- started again -------------------------------------------------------------------------------------------------


def killed(output: Path | str, clock: Clock, rows: int) -> Any:
    """A build that is gone without a last word, as long as the result is held."""
    one = progress(output, clock)
    stage = one.__enter__().stage("read", 2000, "row")
    stage.__enter__()
    work(one, clock, rows)
    return stage


def test_a_build_that_starts_again_goes_on(tmp_path: Path, clock: Clock) -> None:
    held = killed(tmp_path, clock, 1000)
    path = tmp_path / "log" / "build.jsonl"
    first = path.read_text()
    path.write_text(first + '{"time": 1, "sec')  # torn by the kill
    (tmp_path / "log" / ".looksay-half").write_text("half a page")
    clock.now += 5000  # nobody worked
    with progress(tmp_path, clock) as one, one.stage("read", 2000, "row"):
        for _ in range(10):  # committed units are met between those that are done now
            one.skip(100)
            work(one, clock, 100)
    assert path.read_text().startswith(first) and not (tmp_path / "log" / ".looksay-half").exists()
    lines = [json.loads(line) for line in path.read_text().splitlines() if not line.endswith('"sec')]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[-1] < 21, "seconds of work do not go on"
    end = lines[-2]
    assert end["done"] == 2000 and 1780 <= end["step"] <= 2000 and end["finished"] and end["rate"] == pytest.approx(100)
    assert 900 <= end["kept"] <= 1000 and end["kept"] * 2 == end["kept"] + sum(end["rejected"].values())
    steps = [step for step, _ in scalars_of(tmp_path, "read/rate")]
    assert steps == sorted(steps) and steps[-1] == end["step"] and min(steps) <= 1000
    assert len(listdir(str(tmp_path / "log" / "tb"))) == 2
    rates = [rate for run in one.tally.stages["read"].curve.rates() for _, rate in run]
    assert rates and all(99 < rate < 101 for rate in rates), "the time between the starts is in a rate"
    assert "in 2 starts" in page_of(tmp_path)
    del held


def test_a_stage_begun_anew_counts_anew(tmp_path: Path, clock: Clock) -> None:
    for _ in range(2):
        with progress(tmp_path, clock) as one, one.stage("dedup", 100, "chunk"):
            work(one, clock, 100, rate=10)
    end = lines_of(tmp_path)[-2]
    assert (end["done"], end["kept"], end["rejected"]["filter/empty"]) == (100, 50, 10)
    assert end["step"] == 200, "steps go back"


def test_what_was_done_before_says_nothing_of_the_rate(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(tmp_path, clock, bar=True) as one, one.stage("read", 10_000, "row"):
        for _ in range(100):
            one.skip(90)
        work(one, clock, 500)
        bar = one._running[-1].bar
        assert bar.initial == 9000 and 9400 < bar.n <= 9500, "what was skipped is in the bar's rate"
    middle = lines_of(tmp_path)[3]
    assert middle["done"] > 9000 and middle["rate"] == pytest.approx(100) and middle["eta"] < 10
    assert "9500/10000" in capsys.readouterr().err


def test_lines_of_another_kind_are_passed_over(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "build.jsonl").write_text('\n[]\n"x"\n{}\n{"seconds": "y"}\n{"seconds": 1, "event": "e"}\nnull')
    with progress(tmp_path, clock) as one, one.stage("read", 10, "row"):
        work(one, clock, 10)
    assert (tmp_path / "log" / "build.jsonl").read_text().splitlines()[6] == "null"
    assert "read" in page_of(tmp_path)


# ---- it never fails the build --------------------------------------------------------------------------------------


def full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def lost(*args: Any, **more: Any) -> None:
    raise RunError("the store does not answer")


@pytest.mark.parametrize(
    "harm",
    [
        lambda patch: patch.setattr(BuildLog, "_line", full),
        lambda patch: patch.setattr(BuildLog, "_scalars", full),
        lambda patch: patch.setattr(build_log, "render", lambda *args: 1 // 0),
        lambda patch: patch.setattr(build_log, "put", lost),
        lambda patch: patch.setattr(build_log, "_new_board", full),
    ],
    ids=["lines", "tensorboard", "page", "store", "begin"],
)
def test_a_log_that_fails_is_said_once(
    harm: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm(monkeypatch)
    with progress(tmp_path, clock) as one:
        for name in ("read", "cut"):
            with one.stage(name, 3000, "row"):
                work(one, clock, 3000)
                one.note("lost", task="1")
    said = capsys.readouterr().err
    assert said.count("looksay:") == 1 and "the build goes on" in said and "Traceback" not in said
    assert one.tally.stages["cut"].done == 3000, "counting stopped with the log"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_disk_that_is_really_full(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "log" / "build.jsonl"
    with progress(tmp_path, clock) as one, one.stage("read", 1000, "row"):
        lines.unlink()
        lines.symlink_to("/dev/full")
        work(one, clock, 1000)
    said = capsys.readouterr().err
    assert said.count("looksay:") == 1 and "No space left" in said


def test_a_file_where_the_log_belongs(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text("somebody's")
    with progress(tmp_path, clock) as one, one.stage("read", 100, "row"):
        work(one, clock, 100)
    assert capsys.readouterr().err.count("looksay:") == 1 and (tmp_path / "log").read_text() == "somebody's"


def test_the_builds_own_failure_passes_and_is_told(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(RunError, match="no space"), progress(tmp_path, clock) as one, one.stage("read", 100, "row"):
        work(one, clock, 50)
        raise RunError("no space is left for OUT/<00007>.tar: free some")
    last, end = lines_of(tmp_path)[-2:]
    assert last["done"] == 50 and not last["finished"]
    assert end["run"] == "failed" and end["error"].startswith("RunError: no space")
    assert "failed" in page_of(tmp_path) and "OUT/&lt;00007&gt;.tar" in page_of(tmp_path)


# ---- held back, and far away ---------------------------------------------------------------------------------------


def test_nothing_is_written_before_release(tmp_path: Path, clock: Clock) -> None:
    with progress(tmp_path, clock, held=True) as one, one.stage("list", 100, "file"):
        work(one, clock, 100, rate=10)
    assert os.listdir(tmp_path) == []
    with progress(tmp_path, clock, held=True) as one:
        with one.stage("list", 100, "file"):
            work(one, clock, 100, rate=10)
        assert os.listdir(tmp_path) == []
        one.release()
        one.release()
    lines = lines_of(tmp_path)
    assert [lines[0]["run"], lines[-1]["run"]] == ["begins", "done"]
    assert [line["seconds"] for line in lines if line.get("finished")] == [pytest.approx(10)]


def test_a_remote_output_gets_the_log_now_and_then(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = f"memory://looksay-progress-{uuid.uuid4().hex}/set"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    uploads: list[tuple[float, str]] = []
    put_file = build_log.put_file
    monkeypatch.setattr(
        build_log, "put_file", lambda path, write: (uploads.append((clock.now, path)), put_file(path, write))
    )
    held = killed(out, clock, 15_000)  # 150 seconds
    times = [when for when, path in uploads if path.endswith("build.jsonl")]
    assert len(times) == 2 and all(later - sooner >= 60 for sooner, later in pairwise([1000.0, *times]))
    log = join(out, "log")
    there = read_bytes(join(log, "build.jsonl"))
    with progress(out, clock) as one, one.stage("read", 20_000, "row"):
        one.skip(15_000)
        work(one, clock, 1000)
    whole = read_bytes(join(log, "build.jsonl"))
    assert whole.startswith(there) and json.loads(whole.splitlines()[-1])["run"] == "done"
    end = json.loads(whole.splitlines()[-2])
    assert end["done"] == 16_000 and 13_000 < end["step"] <= 16_000, "steps do not go on from the last upload"
    assert len(listdir(join(log, "tb"))) == 2 and exists(join(log, "build.html"))
    assert len(listdir(str(tmp_path))) == 1, "only the killed one leaves its temporary folder"
    del held


def test_a_slow_store_is_asked_less(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[float] = []

    def slow(path: str, write: Any) -> None:
        uploads.append(clock.now)
        clock.now += 10 * path.endswith("build.jsonl")

    monkeypatch.setattr(build_log, "put_file", slow)
    with progress(f"memory://looksay-progress-{uuid.uuid4().hex}", clock) as one, one.stage("read", 90_000, "row"):
        work(one, clock, 90_000)  # 900 seconds
    assert len(uploads) // 3 <= 6, "uploading takes more than a twentieth of the time"


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_stands_alone_and_trusts_nobody(tmp_path: Path, clock: Clock) -> None:
    evil = "<script>alert(1)</script>"
    with Progress(str(tmp_path), evil, bar=False, clock=clock) as one, one.stage(evil, 1000, evil):
        for _ in range(100):
            clock.now += 1
            one.advance(10, kept=5, rejected={f"filter/{evil}": 5})
        one.note(evil, key=evil)
        running = page_of(tmp_path)
    page = page_of(tmp_path)
    for text in (running, page):
        assert "<script" not in text and "&lt;script&gt;" in text
        assert "http://" not in text and "https://" not in text and "src=" not in text and "url(" not in text
        assert "<polyline" in text and "prefers-color-scheme:dark" in text
    assert 'http-equiv="refresh"' in running and 'http-equiv="refresh"' not in page


def test_the_page_of_a_done_build_shows_its_statistics(tmp_path: Path, clock: Clock) -> None:
    totals = statistics.merge([])
    totals |= {"shards": 2, "rows": 1234, "kept": 1000, "pictures": 1500, "picture_bytes": 3 * 2**20}
    totals |= {"rejected": {f"filter/r{n:02d}": n for n in range(1, 20)}, "formats": {"jpg": 1500}}
    totals["histograms"]["width"][8:11] = [700, 0, 800]
    with progress(tmp_path, clock) as one, one.stage("read", 5000, "row"):
        work(one, clock, 5000)
        statistics.write_statistics(str(tmp_path), [("00000", totals)])
    page = page_of(tmp_path)
    for text in ("1,234</b> rows", "1,000 <small>81 %", "234</b> rejected", "3 MB</b> of pictures", "1,500 jpg"):
        assert text in page, text
    assert "filter/r19" in page and "filter/r04" not in page and "4 more reasons" in page and ">10 <small>0.8 %" in page
    assert page.count("<rect") == 3 and "from 256: 700" in page and "from 384: 800" in page


def test_pages_of_little() -> None:
    """Nothing yet; a stage of nothing; one point of a curve."""
    tally = Tally("x")
    assert "Nothing." in render(tally, None, 0.0) and "1970-01-01" in render(tally, None, 0.0)
    tally.stage("list").begin(0, "file", 0.0)
    tally.stage("read").begin(10, "row", 0.0)
    tally.stage("read").curve.add(0.0, 0)
    tally.state = "done"
    assert "0 of 0 files" in render(tally, statistics.merge([]), 0.0)
