"""`looksay demo`, whole but tiny: every part runs, every number is there, a second start reuses all of it."""

import json
import re
from pathlib import Path

import pytest

from configs.errors import RunError
from configs.load import load_recipe
from data_pipeline.stream.layout import geometry_of, grid_of
from pretrain.cli.main import main
from tests.flows.conftest import no_ray
from tests.support.datasets import picture

COLOURS = ("red", "blue", "green")
KEYS = """data.rows data.kept data.rejected data.pictures_per_sample packing.fill packing.visual_tokens_per_row
caption.loss_first caption.loss_last caption.retrieval_at_1_of_100 vqa.accuracy vqa.by_type vqa.text_only
image_swap.right image_swap.wrong image_swap.blank image_swap.p_value image_swap.pair_accuracy image_swap.blank_accuracy
resume.bitwise train.real_tokens_per_s seconds.install seconds.data seconds.caption seconds.sft seconds.evaluate
seconds.total versions"""


def sources(folder: Path) -> list[str]:
    """Settings that put a few small pictures in the place of the demo's thousands."""
    folder.mkdir()
    settings = []
    for name, questions, count in (
        ("emoji_train", False, 24),
        ("emoji_heldout", False, 8),
        ("vqa_train", True, 24),
        ("vqa_test", True, 8),
    ):
        rows = []
        for number in range(count):
            (folder / f"{name}-{number}.png").write_bytes(picture(number, 48, 48))
            colour = COLOURS[number % 3]
            asked = [
                {"role": "user", "content": "<image>what color is the shape?"},
                {"role": "assistant", "content": colour},
            ]
            said = {"messages": asked} if questions else {"text": f"number {number}, {colour}"}
            rows.append({"image": f"{name}-{number}.png", **said})
        if name == "emoji_train":
            rows.append({"image": "gone.png", "text": "a picture that is not there"})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings.append(f"data.{name}.source={{type: table, path: {folder}/{name}.jsonl}}")
    short = [
        "optim.warmup_steps=1",
        "checkpoint.every=6",
        "evaluate={every: 0, samples: 6, pictures: 6}",
        "data.packing.length=256",
    ]
    for stage, steps in (("caption", 12), ("sft", 4)):
        settings += [f"{stage}.{value}" for value in short] + [f"{stage}.stage.steps={steps}"]
    return settings


def look_up(summary: dict[str, object], dotted: str) -> object:
    value: object = summary
    for key in dotted.split("."):
        assert isinstance(value, dict) and key in value, f"summary.json has no {dotted}"
        value = value[key]
    return value


@pytest.mark.slow
def test_the_demo_whole_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOKSAY_INSTALL_SECONDS", "88.5")
    arguments = ["demo", *(word for item in sources(tmp_path / "source") for word in ("--set", item))]
    root = tmp_path / "runs" / "demo"
    with no_ray():
        assert main(arguments) == 0
    out = capfd.readouterr().out
    assert out.strip().splitlines()[-1] == "runs/demo/report.html"

    summary = json.loads((root / "summary.json").read_text())
    values = {key: look_up(summary, key) for key in KEYS.split()}
    assert [key for key, value in values.items() if value is None] == []
    assert values["data.rows"] == values["data.kept"] + sum(values["data.rejected"].values())  # type: ignore[operator,union-attr]
    assert sum(values["data.rejected"].values()) >= 1  # type: ignore[union-attr]
    assert values["seconds.install"] == 88.5
    assert values["resume.bitwise"] is True and "was killed at step" in out and "SIGKILL" in out
    assert summary["resume"]["first"] < summary["resume"]["killed_at"] <= summary["resume"]["last"]

    answers = [json.loads(line) for line in (root / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == 8 and all({"id", "type", "answer", "truth"} <= row.keys() for row in answers)
    page = (root / "report.html").read_text()
    assert len(page) < 3_000_000 and not re.search(r"https?://", page)
    assert "data-refresh" not in page and "cannot be shown" not in page
    for run in ("caption", "sft", "segment"):
        held = {path.name for path in (root / run).iterdir()}
        assert held >= {"config.yaml", "metrics.jsonl", "status.json", "plan.log", "tb", "logs", "checkpoints"}, run

    # Again: nothing is done anew, and it is said part by part.
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}
    monkeypatch.delenv("LOOKSAY_INSTALL_SECONDS")
    assert main(arguments) == 0
    out = capfd.readouterr().out
    for part in (
        "emoji_train",
        "vqa_test",
        "tokenizer",
        "caption",
        "sft",
        "caption/evaluation",
        "sft/evaluation",
        "segment",
    ):
        assert re.search(rf"{part}: reused", out), f"nothing said of {part}"
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")} == before
    again = json.loads((root / "summary.json").read_text())
    assert again["seconds"] == summary["seconds"] and again["vqa"] == summary["vqa"]

    # Other settings are not mixed in; a failure is told, and the page shows it.
    assert main([*arguments, "--seed", "1"]) == 2
    assert "choose another --folder" in capfd.readouterr().err

    def lost(root: Path, caption: object) -> bool:
        raise RunError("rank 1 was lost")

    monkeypatch.setattr("pretrain.demo.run_segment", lost)
    assert main(arguments) == 1
    assert "rank 1 was lost" in capfd.readouterr().err
    assert json.loads((root / "demo.json").read_text())["state"] == "failed"
    assert "demo: failed, at segment" in (root / "report.html").read_text()


def test_settings_name_their_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--folder", str(tmp_path / "demo"), "--set", "stage.steps=3"]) == 2
    assert "begin with caption., sft. or data.DATASET." in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    assert main(["demo", "--folder", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("side", [32, 64, 128])
def test_a_small_picture_is_shown_at_the_size_that_was_trained_on(side: int) -> None:
    """easy-VQA's own files are 64 pixels wide: 4 tokens as they are, which the model has never seen (it answered wrongly)."""
    geometry = geometry_of(load_recipe("demo_sft").model)
    rows, columns = grid_of(side, side, geometry)
    assert rows * columns == 16
