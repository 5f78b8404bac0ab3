"""Random damage over the last three checkpoints is found before anything is used. The full form is LOOKSAY_DAMAGE=2000."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pretrain.checkpoint.choose import latest
from pretrain.run_folder import steps_of
from tests.support.pool import Pool

CASES = "tests.pretrain.training_cases:"
DAMAGES = int(os.environ.get("LOOKSAY_DAMAGE", "60"))


@pytest.fixture(scope="module")
def run(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1, 2 and 3 by two ranks, with frozen parameters."""
    folder = tmp_path_factory.mktemp("whole")
    train = {"projector": 0.01, "decoder": 0.01}
    pool.run(CASES + "written", 2, run=str(folder), zero=3, train=train)
    return folder


def test_every_damage_is_found(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One flipped bit, or a cut, in any file of any checkpoint: what it belongs to is passed over, the rest stands."""
    work = Path(shutil.copytree(run, tmp_path / "run"))
    folders = {step: next((work / "checkpoints").glob(f"step-{step:08d}.*")) for step in steps_of(work)}
    frozen = next((work / "checkpoints").glob("frozen.*"))
    targets = [(step, path) for step, folder in folders.items() for path in sorted(folder.iterdir())]
    targets += [(0, path) for path in sorted(frozen.iterdir())]
    random = np.random.default_rng(7)
    for number in range(DAMAGES):
        step, path = targets[int(random.integers(len(targets)))]
        whole = path.read_bytes()
        if random.random() < 0.3:
            path.write_bytes(whole[: int(random.integers(0, len(whole)))] if whole else b"x")
        else:
            data = bytearray(whole or b"\0")
            data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
            path.write_bytes(bytes(data))
        if path.read_bytes() == whole:
            continue
        caplog.clear()
        found = latest(work)
        if step == 0:
            assert found is None, f"{number}: {path} of the frozen parameters, which all need"
        else:
            assert found is not None and found.step == (2 if step == 3 else 3), f"{number}: {path}"
            assert step != 3 or (str(folders[3]) in caplog.text and path.name in caplog.text), f"{number}: {path}"
        path.write_bytes(whole)
    assert latest(work) is not None
