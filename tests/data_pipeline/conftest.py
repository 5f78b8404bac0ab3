"""Pictures in a folder, and builds of them in this process."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.schema import RECIPE, BuildRecipe
from tests.flows.conftest import no_ray


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


def noise(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def fill(folder: Path, count: int) -> None:
    """`count` good pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise(number, 20 + number % 7).save(folder / f"p{number:03d}.png")
        (folder / f"p{number:03d}.txt").write_text(f"the noise number {number}")


def build_recipe(source: Path | dict[str, Any], output: Path, **more: Any) -> BuildRecipe:
    if isinstance(source, Path):
        source = {"type": "folder", "path": str(source)}
    data = {"kind": "build", "name": "test", "source": source, "output": str(output), "shard_size": 7, "unit_size": 4}
    recipe = RECIPE.validate_python({**data, **more})
    assert isinstance(recipe, BuildRecipe)
    return recipe


def contents(folder: Path, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file below a folder, but the log of a build: it tells of times."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: data for name, data in files.items() if name not in but and not name.startswith("log/")}


@pytest.fixture
def here() -> Iterator[None]:
    """Builds run in this process."""
    with no_ray():
        yield


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
