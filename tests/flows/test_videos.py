"""A video as a folder of frames, the whole way: build, train two steps, generate from several pictures."""

import json
from pathlib import Path

import pytest

from pretrain.cli.main import main
from tests.data_pipeline.conftest import encoded, noise
from tests.flows.conftest import no_ray

SMALL = [
    "model.encoder={type: native_vit, width: 32, depth: 1, heads: 2, mlp_width: 32}",
    "model.resolution={type: native, max_tokens: 4}",
    "model.decoder={layers: 1, width: 32, heads: 2, mlp_width: 32}",
    "data.sources=[{path: data}]",
    "data.tokenizer=tokens",
    "data.packing={length: 64, rows_per_step: 2, window_steps: 2}",
    "stage.steps=2",
    "optim.warmup_steps=0",
    "parallel={ranks: 1, rows_per_rank: 2}",
    "log.to=[]",
]


@pytest.mark.slow
def test_frames_are_built_trained_on_and_answered_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for clip in range(3):
        Path(f"clips/{clip}").mkdir(parents=True)
        for frame in range(1, 11):
            Path(f"clips/{clip}/frame{frame}.png").write_bytes(encoded(noise(10 * clip + frame)))
        Path(f"clips/{clip}.txt").write_text(f"a clip of noise, the number {clip}")
    with no_ray():
        assert main(["data", "build", "clips", "data", "--set", "source.frames=4", "--json"]) == 0
    assert main(["data", "tokenizer", "data", "--out", "tokens", "--vocab", "300"]) == 0
    sets = [word for value in SMALL for word in ("--set", value)]
    capsys.readouterr()
    assert main(["inspect", "tiny_train", "--json", *sets]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["pictures"]) == 4 and shown["visual_tokens"] == sum(p["tokens"] for p in shown["pictures"])
    assert main(["train", "tiny_train", "--run", "run", *sets]) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and all(line["label_tokens"] > 0 for line in lines)
    frames = [word for n in (2, 4, 7, 9) for word in ("--image", f"clips/0/frame{n}.png")]
    capsys.readouterr()
    for prompt in ([], ["--prompt", "what happens?"], ["--prompt", "<image><image><image><image>what happens?"]):
        assert main(["generate", "run", *frames, *prompt, "--max-new", "3", "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["ids"]) <= 3
    assert main(["generate", "run", *frames, "--prompt", "<image>" * 5 + "what happens?"]) == 2
    assert "5 <image> marks, but 4 pictures" in capsys.readouterr().err
