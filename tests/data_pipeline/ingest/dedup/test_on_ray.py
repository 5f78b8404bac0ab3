"""The same files on Ray as in this process, and when workers die."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from configs.errors import RunError
from configs.ingest import DedupConfig, RayConfig
from data_pipeline.ingest.dedup import search
from data_pipeline.ingest.dedup.perceptual import perceptual_hash
from data_pipeline.ingest.dedup.run import find_drops
from data_pipeline.ingest.ray_local import local_ray
from tests.data_pipeline.ingest.dedup.conftest import BOTH, SPAN, brighter, cut, files, hashes, picture

ROWS = 200


def table() -> pa.Table:
    random = np.random.default_rng(1)
    base = [picture(seed) for seed in range(50)]
    look = [perceptual_hash(brighter(base[random.integers(50)], int(random.integers(-4, 5)))) for _ in range(ROWS)]
    return hashes(range(ROWS), [bytes([int(n)] * 16) for n in random.integers(0, 150, ROWS)], look)


@pytest.mark.slow
def test_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import nothing of ours: what they are given travels by value."""
    chunks = cut(table(), [20] * 10)
    config = DedupConfig(**BOTH)

    def load(chunk: pa.Table, marker: str = "") -> pa.Table:
        if marker and not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(9)
        return chunk

    def full(chunk: pa.Table) -> Any:
        raise RunError("the disk is full")

    monkeypatch.setattr(search, "TASK_BYTES", 4000)  # many tasks for few rows
    find_drops(chunks, load, config, str(tmp_path / "here"), SPAN, on_ray=False)
    with local_ray(RayConfig(workers=1, object_store_mb=80)):
        find_drops(chunks, load, config, str(tmp_path / "ray"), SPAN, on_ray=True)
        dying = partial(load, marker=str(tmp_path / "died"))
        find_drops(chunks, dying, config, str(tmp_path / "died-on-ray"), SPAN, on_ray=True)
        with pytest.raises(RunError, match="the disk is full") as caught:
            find_drops(chunks, full, config, str(tmp_path / "full"), SPAN, on_ray=True)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "died").exists()
    assert files(tmp_path / "ray") == files(tmp_path / "died-on-ray") == files(tmp_path / "here")
