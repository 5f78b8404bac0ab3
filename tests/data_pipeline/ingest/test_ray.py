"""A unit that cannot be written, on a real local Ray: one sentence, no manifest, and the same command goes on."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RunError
from configs.ingest import RayConfig
from data_pipeline.ingest import assemble
from data_pipeline.ingest.job import build
from data_pipeline.ingest.ray_local import local_ray
from data_pipeline.ingest.units import process_unit
from data_pipeline.ingest.verify import verify
from tests.data_pipeline.conftest import build_recipe, contents, fill
from tests.flows.conftest import no_ray
from tests.support.ray_nodes import command_lines


@pytest.mark.slow
def test_no_space_on_a_worker_is_one_sentence_and_the_build_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "photos", 12)
    recipe = build_recipe(tmp_path / "photos", tmp_path / "out", ray={"workers": 1})
    whole, number = process_unit, errno.ENOSPC

    def full(work: Any, unit: Any, careful: bool = False) -> Any:
        """Unit 1 finds the disk full; `errno` and the rest travel by value, for workers do not have our tests."""
        if unit.number != 1:
            return whole(work, unit, careful)
        from pathlib import Path as Here

        from data_pipeline.ingest.unit_file import unit_path
        from data_pipeline.storage import put_file

        def write(path: str) -> None:
            Here(path).write_bytes(b"half")
            raise OSError(number, "No space left on device")

        return put_file(unit_path(work.work, 1), write)

    with local_ray(recipe.ray):
        with monkeypatch.context() as patch:
            patch.setattr(assemble, "process_unit", full)
            with pytest.raises(RunError) as caught:
                build(recipe, progress=False)
        assert str(caught.value).startswith("no space is left for ") and "\n" not in str(caught.value)
        assert not (tmp_path / "out" / "manifest.json").exists()
        build(recipe, progress=False)
    assert verify(str(tmp_path / "out")).problems == []
    with no_ray():
        build(build_recipe(tmp_path / "photos", tmp_path / "here", ray={"workers": 1}), progress=False)
    made, here = (contents(tmp_path / name, ["manifest.json", "recipe.yaml"]) for name in ("out", "here"))
    assert made == here, "Ray's workers made other bytes than this process"


@pytest.mark.slow
def test_a_local_ray_lets_nobody_else_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its token is in no file and on no command line; who has none is refused, and later builds get one again."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with local_ray(RayConfig(workers=1)):
        import ray

        token, address = os.environ["RAY_AUTH_TOKEN"], ray.get_runtime_context().gcs_address
        assert not [line for line in command_lines() if token.encode() in line]
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        code = f"import ray; ray.init(address={address!r}, logging_level='error')"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**env, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode != 0 and "InvalidAuthToken" in done.stderr
        inside = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_MODE"]).remote())
        assert inside == "token"
    assert "RAY_AUTH_TOKEN" not in os.environ and not (tmp_path / ".ray").exists()
