"""A checkpoint is data: nothing in it runs, and what contradicts itself is refused in a sentence."""

import contextlib
import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from pretrain.checkpoint.choose import find, folder_of, latest
from pretrain.checkpoint.files import entries_of
from pretrain.checkpoint.reading import Checkpoint
from tests.support.pool import Pool

CASES = "tests.pretrain.training_cases:"


class Canary:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (open, (str(CANARY_FILE), "w"))  # type: ignore[return-value]


CANARY_FILE = Path("/nowhere")


@pytest.fixture(scope="module")
def whole(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    pool.run(CASES + "written", 2, run=str(folder), zero=3, train={"projector": 0.01, "decoder": 0.01})
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_canary_in_every_file_never_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.resume.test_attacks.CANARY_FILE", tmp_path / "it ran")
    payload = pickle.dumps(Canary())
    files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        whole = path.read_bytes()
        for data in (payload, payload + whole, whole + payload, whole[:8] + payload + whole[8:]):
            path.write_bytes(data)
            latest(run)
            with contextlib.suppress(UserError, RuntimeError, OSError, ValueError):  # refused is as good
                Checkpoint(folder_of(run, 3)).tensor("decoder.norm.weight")
            assert not (tmp_path / "it ran").exists(), path
        path.write_bytes(whole)


def rewrite(path: Path, change: Any) -> None:
    """Change the JSON header of a rank's file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def first_of(header: dict[str, Any]) -> str:
    return next(key for key in header if key != "__metadata__")


def shifted(header: dict[str, Any]) -> None:
    begin, end = header[first_of(header)]["data_offsets"]
    header[first_of(header)]["data_offsets"] = [begin + (1 << 40), end + (1 << 40)]


def renamed(header: dict[str, Any]) -> None:
    pieces = json.loads(header["__metadata__"]["pieces"])
    old = pieces[0][0]
    pieces[0][0] = "master/../../etc/passwd"
    header["__metadata__"]["pieces"] = json.dumps(pieces)
    header[pieces[0][0]] = header.pop(old)


def other_range(header: dict[str, Any]) -> None:
    pieces = json.loads(header["__metadata__"]["pieces"])
    pieces[0][5], pieces[0][6] = pieces[0][5] + 10**9, pieces[0][6] + 10**9
    header["__metadata__"]["pieces"] = json.dumps(pieces)


def newer(header: dict[str, Any]) -> None:
    header["__metadata__"]["schema"] = "99"


HEADERS = {
    "data outside the file": (shifted, "lies outside the file"),
    "a foreign name": (renamed, "it names"),
    "a range that is none": (other_range, "a range that is none of its shape"),
    "a newer format": (newer, "its format is 'looksay' '99'"),
    "no pieces": (lambda header: header.pop("__metadata__"), "is not a file of a looksay checkpoint"),
    "an unknown dtype": (lambda header: header[first_of(header)].update(dtype="PICKLE"), "is not a file of"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_contradicts_itself_is_refused(run: Path, name: str) -> None:
    change, said = HEADERS[name]
    path = folder_of(run, 3) / "rank-00000.safetensors"
    rewrite(path, change)
    with pytest.raises(UserError) as refused:
        entries_of(str(path))
    assert said in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_an_oversize_header_is_refused(run: Path) -> None:
    path = folder_of(run, 3) / "rank-00000.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])
    with pytest.raises(UserError, match=f"its header claims {1 << 60} bytes"):
        entries_of(str(path))


def test_a_state_of_a_newer_version_says_so(run: Path) -> None:
    path = folder_of(run, 3) / "state.json"
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 9'))
    with pytest.raises(UserError, match="has schema 9, this looksay reads 2: it was written by a newer version"):
        Checkpoint(folder_of(run, 3))


def test_a_list_that_names_files_elsewhere_is_damage(run: Path) -> None:
    path = folder_of(run, 3) / "files.json"
    path.write_text(path.read_text().replace("state.json", "../state.json"))
    with pytest.raises(UserError, match=r"files\.json does not have its hash"):
        find(f"{run}@3")
