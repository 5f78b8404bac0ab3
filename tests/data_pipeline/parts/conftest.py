"""A hub on loopback with one model, and a cache of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.hub_server import Hub, hub_server

SECRET = "hf_the-secret-of-the-tests"
MODEL = "maker/tiny-model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # other tests of the session are offline
    monkeypatch.setattr("data_pipeline.parts.download.FIRST_DELAY", 0.01)
    with hub_server() as server:
        server.repositories[MODEL] = {
            "config.json": b'{"model_type": "llama"}',
            "model.safetensors": np.random.default_rng(0).bytes(600_000),
            "tokenizer.json": b"{}",
            "pytorch_model.bin": b"p" * 9000,
            "README.md": b"# tiny",
            "onnx/model.safetensors": b"o" * 9000,
        }
        server.token = SECRET
        for name, value in {
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": SECRET,
            "LOOKSAY_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server
