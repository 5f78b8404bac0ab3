"""A user's folder with packages named like ours, and a PATH without tools: building and training use ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.run_folder import steps_of

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "import sys; from pretrain.cli.main import main; sys.exit(main(sys.argv[1:]))"
"""What the console script does: it does not put the working folder on the path, so `-P`."""

SMALL = """extends: mine.yaml
model:
  encoder: {width: 32, depth: 1, heads: 2, mlp_width: 32}
  decoder: {layers: 1, width: 32, heads: 2, kv_heads: 1, mlp_width: 32}
data: {packing: {length: 128, rows_per_step: 2, window_steps: 2}}
stage: {steps: 2}
optim: {warmup_steps: 0}
parallel: {rows_per_rank: 1}
log: {to: []}
"""


def looksay(*arguments: str) -> str:
    """Run the command as a user would, with nothing on PATH."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env |= {"PATH": "/nowhere", "PYTHONPATH": str(ROOT), "CUDA_HOME": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_packages_of_the_users_do_not_shadow_ours(world: Path) -> None:
    for name in ("configs", "cluster", "tests", "data_pipeline", "pretrain"):
        Path(name).mkdir()
        Path(name, "__init__.py").write_text(f"raise ImportError('the {name} package of the user was imported')")
    Path("small.yaml").write_text(SMALL)
    said = json.loads(looksay("data", "build", "photos", "out", "--set", "ray.workers=1", "--json"))
    assert (said["rows"], said["kept"], said["reused"]) == (6, 6, False)
    looksay("train", "small.yaml", "--run", "small")
    status = [json.loads(line) for line in Path("small/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in status] == [1, 2]
    assert steps_of(Path("small")) == [2]
