"""The report in every state a folder can be in: whole HTML, nothing from outside, nothing unescaped, nothing missing."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.load import dump_recipe, load_recipe
from data_pipeline.ingest.unit_file import UnitWriter
from data_pipeline.sample import IMAGE_MARK, ImageInfo, Message, Reject, Sample, key_of
from data_pipeline.stream.tokenizer import train_tokenizer
from pretrain.report import live
from pretrain.report.page import SIZE_LIMIT, write_report
from pretrain.report.plots import line_chart, packed_rows, padded_rows
from tests.support.datasets import picture, write_unit

HOSTILE = "<script>alert('hi')</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "img", "input", "br", "link", "hr"}


class Reader(HTMLParser):
    """Checks that every element is closed in order; collects what the page refers to and what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)


def read(root: Path) -> tuple[str, Reader]:
    """The report of `root`, checked for what every report must be."""
    path = write_report([root])
    assert path == root / "report.html"
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open, f"left open: {reader.open}"
    assert len(text.encode()) < SIZE_LIMIT
    assert all(link.startswith(("data:image/", "#")) for link in reader.links)
    assert not re.search(r"https?://|@import|url\((?!data:)", text)
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids)), "an id occurs twice"
    assert all("alt" in attrs for tag, attrs in reader.tags if tag == "img")
    return text, reader


def said(reader: Reader) -> str:
    return " ".join(" ".join(reader.words).split())


def dataset(folder: Path, questions: bool, count: int = 8, rejects: int = 0) -> None:
    writer = UnitWriter()
    for number in range(count):
        text, messages = f"caption {number} {HOSTILE if number == 0 else ''}", None
        if questions:
            text, messages = (
                None,
                (Message("user", f"{IMAGE_MARK}what is it?"), Message("assistant", f"thing{number % 3}")),
            )
        made = Sample(key_of(number), (picture(number, 40, 30),), ("png",), (ImageInfo(40, 30),), text, messages, {})
        writer.keep(number, made)
    for number in range(count, count + rejects):
        writer.reject(number, Reject("decode", "truncated", f"row {HOSTILE}"))
    write_unit(folder, writer, 4, {"1": count})


def put_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def put_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def demo_state(root: Path, state: str, part: str | None = None) -> None:
    put_json(root / "demo.json", {"state": state, "part": part, "seconds": {}, "install": None})


@pytest.fixture(scope="module")
def data_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo whose data are made."""
    root = tmp_path_factory.mktemp("report") / "demo"
    for name in ("emoji_train", "emoji_heldout", "vqa_train", "vqa_test"):
        dataset(root / "data" / name, name.startswith("vqa"), rejects=3 if name == "emoji_train" else 0)
    train_tokenizer([str(root / "data" / "emoji_train")], str(root / "data" / "tokenizer"), 300)
    demo_state(root, "running", "ranks")
    return root


def stage(root: Path, name: str, state: str, steps: int = 30) -> Path:
    """A run folder as the trainer leaves it after 20 of `steps` steps (or all, when done)."""
    train, heldout = ("emoji_train", "emoji_heldout") if name == "caption" else ("vqa_train", "vqa_test")
    overrides = [
        f"data.sources.0.path={root}/data/{train}",
        f"evaluate.source={root}/data/{heldout}",
        f"data.tokenizer={root}/data/tokenizer",
        f"stage.steps={steps}",
        "data.packing={length: 64, rows_per_step: 2, window_steps: 2}",
        "seed=31",
    ]
    run, done = root / name, steps if state == "done" else 20
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(dump_recipe(load_recipe(f"demo_{name}", overrides)), encoding="utf-8")
    parts = {"data": 0.01, "forward": 0.03, "backward": 0.05, "step": 0.02, "total": 0.11}
    rows: list[dict[str, Any]] = [{"step": 0, "validation": {"loss": 7.5, "tokens": 9}}]
    for step in range(1, done + 1):
        row = {"step": step, "loss": 7.0 / step, "grad_norm": 1.5, "tokens_per_s": 4321.0, "fill": 0.97, "mfu": 0.3}
        rows.append({**row, "seconds": parts, "real_tokens": 100})
    put_lines(run / "metrics.jsonl", rows)
    put_json(run / "status.json", {"state": state, "step": done, "steps": steps})
    put_json(run / "freeze.json", [{"module": "projector", "trainable": True, "lr": 0.002, "parameters": 180480}])
    versions = {"torch": "2.13.0"}
    put_json(
        run / "versions.json",
        {
            "seed": 31,
            "commit": "abc123def456",
            "hardware": {"name": "A Processor", "cores": 2, "threads": 1},
            "versions": versions,
            "python": "3.11",
        },
    )
    answers = [
        {
            "step": step,
            "index": index,
            "prompt": "what is it?",
            "truth": f"thing{index}",
            "text": HOSTILE if step else "noise",
        }
        for step in (0, 10)
        for index in range(7)
    ]
    put_lines(run / "predictions.jsonl", answers)
    return run


def evaluated(root: Path) -> None:
    """What evaluate, the segment and the summary leave."""
    rows = [
        {
            "id": n,
            "type": "shape",
            "question": "what is it?",
            "image_id": n,
            "truth": f"thing{n % 3}",
            "answer": "wrong" if n in (2, 5) else f"thing{n % 3}",
            "loss": float(n),
        }
        for n in range(8)
    ]
    put_lines(root / "sft/evaluation/predictions.jsonl", rows)
    faces = [
        {
            "picture": "own",
            "sample": 0,
            "number": 0,
            "answer": "thing0",
            "top": [["thing0", 0.91], [HOSTILE, 0.05], ["rest", 0.0001]],
        },
        {"picture": "other", "sample": 1, "number": 0, "answer": "thing1", "top": [["thing1", 0.88]]},
        {"picture": "blank", "sample": -1, "number": -1, "answer": "nothing", "top": []},
    ]
    question = {"question": f"what is it {HOSTILE}?", "truths": ["thing0", "thing1"], "faces": faces}
    put_json(
        root / "sft/evaluation/showcase.json",
        {"dataset": str(root / "data/vqa_test"), "blank": [200, 201, 202], "rows": [question]},
    )
    vqa = {
        "accuracy": 0.971,
        "by_type": {"shape": 0.981},
        "text_only": 0.669,
        "text_only_by_type": {"shape": 0.341},
        "majority": 0.373,
        "questions": 8,
    }
    swap = {
        "right": 0.05,
        "wrong": 2.84,
        "blank": 1.18,
        "p_value": 0.0001,
        "pair_accuracy": 0.883,
        "blank_accuracy": 0.652,
        "pairs": 8,
    }
    put_json(root / "sft/evaluation/evaluation.json", {"vqa": vqa, "image_swap": swap})
    captions = [
        {"sample": n, "truth": f"truth {n}", "retrieved": f"found {n}", "right": n % 2 == 0, "said": HOSTILE}
        for n in range(6)
    ]
    put_lines(root / "caption/evaluation/captions.jsonl", captions)
    caption = {
        "retrieval_at_1_of_100": 0.21,
        "interval": [0.14, 0.30],
        "chance": 0.01,
        "dataset": str(root / "data/emoji_heldout"),
    }
    put_json(root / "caption/evaluation/evaluation.json", {"caption": caption})
    put_json(
        root / "segment/segment.json",
        {"first": 10, "last": 20, "killed_at": 15, "bitwise": True, "expected": "ab" * 32, "found": "ab" * 32},
    )
    put_json(
        root / "summary.json",
        {
            "vqa": vqa,
            "image_swap": swap,
            "caption": caption,
            "train": {"real_tokens": 3_421_836, "real_tokens_per_s": 4261.0},
            "seconds": {"total": 555.5},
        },
    )


@pytest.fixture
def demo(data_only: Path, tmp_path: Path) -> Path:
    """A copy to add to."""
    return Path(shutil.copytree(data_only, tmp_path / "demo"))


def test_an_empty_demo_says_so_and_refreshes(tmp_path: Path) -> None:
    demo_state(tmp_path, "running", "data")
    text, reader = read(tmp_path)
    assert "the data are being made" in said(reader) and "data-refresh" in text


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="neither a run nor a demo"):
        write_report([tmp_path])
    assert not (tmp_path / "report.html").exists()


def test_data_alone_show_kept_and_rejected(demo: Path) -> None:
    text, reader = read(demo)
    words = said(reader)
    assert re.search(r"11 rows in . 8 kept, 3 rejected", words) and "decode/truncated" in words
    assert sum(tag == "img" for tag, _ in reader.tags) == 32
    assert "data-refresh" in text and "cannot be shown" not in words


def test_a_running_caption_stage(demo: Path) -> None:
    run = stage(demo, "caption", "running")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 21, "lo')  # torn: it is being written
    text, reader = read(demo)
    words = said(reader)
    assert "caption: running, step 20 of 30" in words and "data-refresh" in text
    assert "180,480" in words and "trained at 0.002" in words
    assert sum(attrs.get("class") == "said" for _, attrs in reader.tags) == 6, "six fixed pictures"
    assert "packed into rows of 64" in words and "padded to the longest" in words
    assert "cannot be shown" not in words


def test_a_finished_demo_shows_everything_in_order(demo: Path) -> None:
    for name in ("caption", "sft"):
        stage(demo, name, "done")
    evaluated(demo)
    demo_state(demo, "done")
    text, reader = read(demo)
    words = said(reader)
    assert "cannot be shown" not in words and "data-refresh" not in text and 'http-equiv="refresh"' not in text
    order = [attrs["id"] for tag, attrs in reader.tags if tag == "section"]
    wanted = [
        "swap",
        "time",
        "packing",
        "data",
        "curves",
        "freeze",
        "mistakes",
        "captions",
        "scores",
        "resume",
        "configuration",
    ]
    assert order == wanted
    facts = [
        "97.1%",
        "66.9%",
        "88.3%",
        "65.2%",
        "21.0%",
        "14.0%",
        "2.84",
        "1.18",
        "equal, bit for bit",
        "91%",
        "truth: thing1",
    ]
    facts += ["seed", "31", "abc123def456", "A Processor", "torch 2.13.0", "rows_per_step: 2", "9 min 16 s", "step 15"]
    assert [fact for fact in facts if fact not in words] == []
    assert "rest" not in re.findall(r'class="word">([^<]*)', text), "a word of no probability has no bar"


def test_the_swap_can_be_driven_by_keyboard(demo: Path) -> None:
    for name in ("caption", "sft"):
        stage(demo, name, "done")
    evaluated(demo)
    _, reader = read(demo)
    radios = [attrs for tag, attrs in reader.tags if tag == "input"]
    assert [attrs["type"] for attrs in radios] == ["radio"] * 3 and len({attrs["name"] for attrs in radios}) == 1
    labels = {attrs["for"] for tag, attrs in reader.tags if tag == "label"}
    described = {attrs["id"] for tag, attrs in reader.tags if "panel" in (attrs.get("class") or "")}
    assert labels == {attrs["id"] for attrs in radios} and described == {attrs["aria-describedby"] for attrs in radios}
    assert not [attrs for _, attrs in reader.tags if "onclick" in attrs]


def test_worst_mistakes_come_first(demo: Path) -> None:
    for name in ("caption", "sft"):
        stage(demo, name, "done")
    evaluated(demo)
    text, _ = read(demo)
    cards = re.findall(r'<article class="(right|wrong)">', text.split('id="mistakes"')[1].split("</section>")[0])
    assert cards == ["wrong"] * 2 + ["right"] * 6
    assert text.index("loss 5.0") < text.index("loss 2.0")
    captions = re.findall(r'<article class="(right|wrong)">', text.split('id="captions"')[1].split("</section>")[0])
    assert captions == ["wrong"] * 3 + ["right"] * 3


def test_captions_of_others_are_text(demo: Path) -> None:
    for name in ("caption", "sft"):
        stage(demo, name, "done")
    evaluated(demo)
    text, reader = read(demo)
    assert sum(tag == "script" for tag, _ in reader.tags) == 1, "the page's own script and no other"
    assert not [attrs for _, attrs in reader.tags if any(name.startswith("on") for name in attrs)]
    assert "&lt;script&gt;alert" in text


def test_a_failed_run_shows_the_end_of_its_logs(demo: Path) -> None:
    stage(demo, "caption", "failed")
    (demo / "logs").mkdir()
    lines = [f"line {number}" for number in range(100)] + ["looksay: the loss of step 21 is nan <b>"]
    (demo / "logs" / "rank-0.log").write_text("\n".join(lines), encoding="utf-8")
    demo_state(demo, "failed", "ranks")
    text, reader = read(demo)
    words = said(reader)
    assert "the loss of step 21 is nan <b>" in words and "line 99" in words and "line 50" not in words
    assert "demo: failed, at ranks" in words and "data-refresh" not in text


def test_a_run_on_its_own_and_two_compared(demo: Path, tmp_path: Path) -> None:
    one, two = stage(demo, "caption", "done"), stage(demo, "sft", "running")
    _, reader = read(one)
    assert "caption: done, step 30 of 30" in said(reader) and "differs" not in said(reader)
    path = write_report([one, two])
    text = path.read_text()
    assert path.parent == one and "what differs" in text and "stage.kind" in text and "sft: running" in text


def test_what_cannot_be_shown_is_said_and_the_rest_shown(demo: Path) -> None:
    stage(demo, "caption", "done")
    shutil.rmtree(demo / "data" / "emoji_heldout")
    _, reader = read(demo)
    words = said(reader)
    assert "A part of this page cannot be shown" in words and "emoji_heldout" in words and "180,480" in words


def test_thousands_of_steps_stay_small(demo: Path) -> None:
    run = stage(demo, "caption", "done", steps=20_000)
    text, _ = read(demo)
    assert len(text) < 400_000 and (run / "metrics.jsonl").stat().st_size > 3_000_000


def test_padded_and_packed_have_one_scale() -> None:
    """A token is as wide in both drawings, and blocks hold every sample once."""
    padded, packed = padded_rows([[10, 20], [30]], 64, "padded"), packed_rows([[10, 20, 30]], 64, "packed")
    blocks = [[float(w) for w in re.findall(r'class="seg[^>]*? width="([\d.]+)"', text)] for text in (padded, packed)]
    assert len(blocks[0]) == len(blocks[1]) == 3
    assert blocks[0] == pytest.approx(
        [width + 0.8 for width in blocks[1]], abs=0.11
    )  # 0.8: the gap drawn between; 0.1: rounding
    waste = [float(w) for w in re.findall(r'class="waste"[^>]*? width="([\d.]+)"', padded)]
    assert waste == pytest.approx([200, 200, 300])


def test_charts_take_any_numbers() -> None:
    assert line_chart("nothing", {"a": []}) == ""
    assert line_chart("nan", {"a": [(1, float("nan"))]}) == ""
    for values in ([(1, 5.0)], [(1, 0.0), (2, 0.0)], [(1, 1e-9), (2, 1e9)], [(1, 3.0), (2, 3.0)]):
        for log in (False, True):
            Reader().feed(line_chart("chart", {"a": values}, log=log))


def test_the_refresher_writes_while_work_goes_on(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FIRST_SECONDS", 0.0)
    written = live.threading.Event()
    real = live.write_report
    monkeypatch.setattr(live, "write_report", lambda roots: (real(roots), written.set()))
    with live.Refresher(demo):
        assert written.wait(30), "no report while the work went on"
    assert (demo / "report.html").exists()
