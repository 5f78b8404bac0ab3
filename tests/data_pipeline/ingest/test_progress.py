"""Progress of a build: what the bar, the log's lines and TensorBoard say; memory stays flat."""

import os
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from data_pipeline.ingest import build_log
from data_pipeline.ingest.progress import MOST_PRINTED, Progress
from data_pipeline.ingest.tally import EVENTS, KINDS, POINTS, REASONS, Curve, share
from tests.support.build_progress import Clock, lines_of, progress, scalars_of, work

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_lines_say_how_far_and_how_fast(tmp_path: Path, clock: Clock) -> None:
    with progress(tmp_path, clock) as one, one.stage("read", 2000, "row"):
        work(one, clock, 1000)
        one.note("lost", task="17", error="NodeDiedError")
        work(one, clock, 1000, rate=10)
    lines = lines_of(tmp_path)
    assert [line.get("run") for line in (lines[0], lines[-1])] == ["begins", "done"]
    middle = next(line for line in lines if line.get("done", 0) > 700)
    done = middle["done"]
    assert {name: middle[name] for name in ("stage", "unit", "total", "step", "kept", "rejected", "bytes")} == {
        "stage": "read",
        "unit": "row",
        "total": 2000,
        "step": done,
        "kept": done / 2,
        "rejected": {"fetch/timeout": done * 4 / 10, "filter/empty": done / 10},
        "bytes": done * 100,
    }
    assert middle["rate"] == pytest.approx(100) and middle["eta"] == pytest.approx((2000 - done) / 100)
    assert middle["seconds"] == pytest.approx(done / 100) and middle["time"] == pytest.approx(1.8e9 + 1000 + done / 100)
    assert middle["rss"] > 2**20
    slow = next(line for line in lines if line.get("done", 0) > 1900)
    assert 10 < slow["rate"] < 12, "the rate does not follow"
    event = next(line for line in lines if "event" in line)
    assert (event["event"], event["stage"], event["values"]) == (
        "lost",
        "read",
        {"task": "17", "error": "NodeDiedError"},
    )
    last = lines[-2]
    assert last["finished"] and last["done"] == 2000 and last["rate"] == pytest.approx(2000 / 110, abs=1e-3)


def test_writing_is_throttled(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[float] = []
    monkeypatch.setattr(build_log, "render", lambda *args: pages.append(clock.now) or "")
    with progress(tmp_path, clock) as one:
        for stage in ("read", "cut"):
            with one.stage(stage, 50_000, "row"):
                for _ in range(50_000):
                    clock.now += 0.001
                    one.advance(1, kept=1)
    times = [line["seconds"] for line in lines_of(tmp_path) if line.get("stage") == "read"]
    assert all(later - sooner >= 2 for sooner, later in pairwise(times[:-1]))
    assert 25 <= len(times) <= 28, "the start, one in two seconds, the end"
    *between, end = pages
    assert 9 <= len(between) <= 11 and all(later - sooner >= 10 for sooner, later in pairwise(between))
    assert end == clock.now, "the last page shows the end"


def test_a_driver_that_waits_still_speaks(tmp_path: Path, clock: Clock) -> None:
    with progress(tmp_path, clock) as one, one.stage("read", 100, "row"):
        work(one, clock, 50, rate=10)
        for _ in range(300):
            clock.now += 1
            one.advance(0)
        stalled = lines_of(tmp_path)[-1]
    assert stalled["done"] == 50 and stalled["seconds"] > 300 and stalled["rate"] < 0.01


def test_the_bar_says_what_matters(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(tmp_path, clock, bar=True) as one, one.stage("read", 400, "row"):
        for _ in range(4):
            clock.now += 1
            one.advance(50, kept=40, rejected={"fetch/timeout": 5, "filter/rare": 1, "fetch/status": 4, "none": 0})
        one.note("doubled", task="3", seconds=31.5)
        assert "none" not in one.tally.stages["read"].rejected
    shown = capsys.readouterr().err
    assert "read:  50%" in shown and "200/400" in shown and "row/s" in shown
    assert "kept 80 %, fetch/timeout 10 %, fetch/status 8 %" in shown and "rare" not in shown
    assert "doubled: task 3, seconds 31.5" in shown


def test_the_bar_is_drawn_twice_a_second(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(tmp_path, clock, bar=True) as one, one.stage("read", 10_000, "row"):
        for _ in range(10_000):
            clock.now += 0.001
            one.advance(1)
    assert 18 <= capsys.readouterr().err.count("\rread") <= 26


def test_many_events_do_not_flood_the_terminal(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(tmp_path, clock, bar=True) as one:
        for number in range(MOST_PRINTED + 50):
            one.note("lost", task=number)
    shown = capsys.readouterr().err
    assert shown.count("lost: task") == MOST_PRINTED and "more events are in log/build.jsonl only" in shown
    assert len(lines_of(tmp_path)) == MOST_PRINTED + 50 + 2


def test_no_bar_no_output(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(tmp_path, clock) as one, one.stage("read", 100, "row"):
        work(one, clock, 100)
        one.note("lost", task="1")
    assert capsys.readouterr() == ("", "")


def test_a_stage_within_a_stage(tmp_path: Path, clock: Clock) -> None:
    with progress(tmp_path, clock) as one, one.stage("count", 3, "shard"):
        one.advance(1)
        with one.stage("cut", 10, "row"):
            one.advance(10)
        one.advance(2)
    ends = {line["stage"]: line["done"] for line in lines_of(tmp_path) if line.get("finished")}
    assert ends == {"cut": 10, "count": 3}


def test_tensorboard_reads_the_scalars(tmp_path: Path, clock: Clock) -> None:
    with progress(tmp_path, clock) as one, one.stage("read", 3000, "row"):
        work(one, clock, 3000)
    rates = scalars_of(tmp_path, "read/rate")
    assert rates[-1] == (3000, pytest.approx(100)) and len(rates) == 4, "each ten seconds, and at the end"
    assert scalars_of(tmp_path, "read/kept_share")[-1] == (3000, 0.5)
    assert scalars_of(tmp_path, "read/rejected/fetch/timeout")[-1] == (3000, 1200)
    assert scalars_of(tmp_path, "read/driver_rss_mb")[-1][1] > 1


def test_no_tensorflow_and_no_torch_is_imported(tmp_path: Path) -> None:
    for name in ("tensorflow", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name}')")
    code = (
        "from data_pipeline.ingest.progress import Progress\n"
        f"with Progress({str(tmp_path / 'out')!r}, 'n', bar=False) as one, one.stage('read', 1, 'row'): one.advance(1)"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "log" / "tb").exists() and not (tmp_path / "imported").exists()


def test_memory_stays_flat(tmp_path: Path, clock: Clock) -> None:
    def go_on(one: Progress, units: range) -> None:
        for number in units:
            clock.now += 0.2
            one.advance(256, kept=200, rejected={f"filter/score_{number}": 56})
            if number % 10 == 0:
                one.note(f"strange {number}", text="x" * 1000)

    with progress(tmp_path, clock) as one, one.stage("read", 10**9, "row"):
        go_on(one, range(4000))
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            go_on(one, range(4000, 8000))
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 200_000, "the second half of the build is remembered"
        stage = one.tally.stages["read"]
        assert len(stage.rejected) == REASONS + 1 and stage.judged == 256 * 8000
        assert len(stage.curve.points) <= POINTS and len(one.tally.events) == EVENTS
        assert len(one.tally.kinds) == KINDS + 1 and sum(one.tally.kinds.values()) == 800
    assert (tmp_path / "log" / "build.html").stat().st_size < 100_000


def test_a_thinned_curve_keeps_the_rates() -> None:
    curve = Curve()
    curve.add(0.0, 0, begins=True)
    for second in range(1, 100_001):
        curve.add(float(second), 10 * min(second, 50_000) + 30 * max(0, second - 50_000))
        assert len(curve.points) <= POINTS
    [rates] = curve.rates()
    assert len(rates) > POINTS / 3 and rates[-1][0] == 100_000
    assert {round(rate) for when, rate in rates if not 49_000 < when < 51_000} == {10, 30}
    assert sum(rate * (now - before) for (before, _), (now, rate) in pairwise([(0.0, 0.0), *rates])) == pytest.approx(
        2e6
    )


def test_a_curve_of_many_starts_is_bounded() -> None:
    curve = Curve()
    for start in range(3 * POINTS):
        curve.add(float(start), start, begins=True)
        curve.add(start + 0.5, start + 1)
    assert len(curve.points) <= POINTS and curve.points[-1][1] == 3 * POINTS


def test_shares_never_lie_at_the_ends() -> None:
    assert [share(part, 10_000) for part in (0, 1, 20, 100, 8700, 9999, 10_000)] == [
        "0 %",
        "<0.1 %",
        "0.2 %",
        "1 %",
        "87 %",
        "99.9 %",
        "100 %",
    ]
