"""Ranks that somebody else started: torchrun's agent holds the store, and the command joins as a rank."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.test_own_folder import COMMAND, ROOT, SMALL


@pytest.mark.slow
def test_train_joins_the_ranks_of_torchrun(world: Path) -> None:
    Path("small.yaml").write_text(SMALL)
    agent = [
        sys.executable,
        "-P",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
    ]
    # After `--`, or torchrun takes our --run for its own --run-path.
    command = ["--", sys.executable, "-P", "-c", COMMAND, "train", "small.yaml", "--run", "joined"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(agent + command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 x data" in done.stdout, "both are ranks of one run"
    lines = [json.loads(line) for line in Path("joined/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
