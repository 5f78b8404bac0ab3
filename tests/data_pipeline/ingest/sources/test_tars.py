"""Tars of strangers: grouped as the webdataset library does, damage named, nothing run, nothing extracted."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from data_pipeline.ingest.record import Record
from tests.data_pipeline.ingest.sources.conftest import SOURCE, data_of, inputs, png, problems, rows

GOOD: list[tuple[str, bytes]] = [
    member
    for n in range(5)
    for member in ((f"a/{n:03d}.png", png(n)), (f"a/{n:03d}.json", json.dumps({"caption": f"text {n}"}).encode()))
]


def write(path: Path, members: list[tuple[str, bytes]], **more: Any) -> Path:
    with tarfile.open(path, "w", **more) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def source(path: Path | str, **more: Any) -> Any:
    return SOURCE.validate_python({"type": "webdataset", "path": str(path), **more})


def read(path: Path, work: Path, **more: Any) -> list[Record]:
    work.mkdir(exist_ok=True)
    return rows(source(path, **more), work)


def test_pictures_are_byte_ranges_and_texts_are_read(tmp_path: Path) -> None:
    records = read(write(tmp_path / "x.tar", GOOD), tmp_path / "w")
    assert [r.text for r in records] == [f"text {n}" for n in range(5)]
    assert [data_of(r.images[0]) for r in records] == [png(n) for n in range(5)]
    assert [r.provenance["key"] for r in records] == [f"a/{n:03d}" for n in range(5)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_groups_are_those_of_the_webdataset_library(form: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDS_SECURE", "1")
    import webdataset

    names = ["a/1.png", "a/1.txt", "b/1.png", "b/1.x.txt", "c.d/2.png", "c.d/2.txt", "e.0.png", "e.1.png", "e.txt"]
    long = "deep/" * 30 + "name"
    names += [f"{long}.png", f"{long}.txt", "caf\u00e9.png", "caf\u00e9.txt", "__meta__/x.txt", ".hidden.png"]
    path = write(tmp_path / "x.tar", [(n, png(1) if n.endswith("png") else b"words") for n in names], format=form)
    library = [sample["__key__"] for sample in webdataset.WebDataset(str(path), shardshuffle=False)]
    assert [r.provenance["key"] for r in read(path, tmp_path / "w")] == library


@pytest.mark.parametrize("where", ["member", "header", "payload"])
def test_a_cut_is_named_and_what_is_before_it_is_kept(where: str, tmp_path: Path) -> None:
    whole = write(tmp_path / "x.tar", GOOD).read_bytes()
    with tarfile.open(tmp_path / "x.tar") as archive:
        third = archive.getmembers()[6]
    at = {"member": third.offset, "header": third.offset + 200, "payload": third.offset_data + 10}[where]
    (tmp_path / "x.tar").write_bytes(whole[:at])
    records = read(tmp_path / "x.tar", tmp_path / "w")
    assert problems(records)[-1] == "source/tar_damaged"
    assert records[-1].problem is not None and "x.tar at byte" in records[-1].problem.detail
    good = [r.text for r in records[:-1]]
    assert good == [f"text {n}" for n in range(len(good))] and len(good) >= 2


def test_flipped_bits_in_headers_are_never_silent(tmp_path: Path) -> None:
    """A flipped bit of a header is a damaged tar, or (in the padding of the checksum itself) changes nothing."""
    sound = read(write(tmp_path / "x.tar", GOOD), tmp_path / "w")
    whole = write(tmp_path / "x.tar", GOOD).read_bytes()
    with tarfile.open(tmp_path / "x.tar") as archive:
        places = [member.offset for member in archive.getmembers()][1:]
    random = np.random.default_rng(0)
    for turn in range(60):
        data = bytearray(whole)
        data[random.choice(places) + random.integers(0, 257)] ^= 1 << random.integers(0, 8)
        (tmp_path / "x.tar").write_bytes(data)
        found = read(tmp_path / "x.tar", tmp_path / "w")
        assert found == sound or "source/tar_damaged" in problems(found), f"turn {turn}: {problems(found)}"


class Canary:
    """Unpickling this makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled_run_or_extracted(tmp_path: Path) -> None:
    canary, payload = tmp_path / "canary", pickle.dumps(Canary(tmp_path / "canary"))
    members = [(f"x.{ending}", payload) for ending in ("pyd", "pickle", "pkl", "pth", "npy", "sh", "ten")]
    members += [("../up.png", png(1)), ("../up.txt", b"up"), ("/etc/abs.png", png(2)), ("/etc/abs.txt", b"abs")]
    path = write(tmp_path / "x.tar", [*members, *GOOD])
    before = sorted(p for p in tmp_path.rglob("*"))
    records = read(path, tmp_path / "w")
    assert problems(records)[0] == "source/no_members"
    assert [r.text for r in records[1:]] == ["up", "abs", *(f"text {n}" for n in range(5))]
    assert {r.images[0].path for r in records[1:]} == {str(path)}, "a key has become a path"
    after = sorted(p for p in tmp_path.rglob("*") if (tmp_path / "w") not in (p, *p.parents))
    assert not canary.exists() and after == before and not Path("/etc/abs.png").exists()
    with pytest.raises(UserError, match="pipe:"):
        read(Path(f"pipe:touch {canary}"), tmp_path / "w")  # type: ignore[arg-type]
    assert not canary.exists()


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("c.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name, data in GOOD:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert [r.text for r in read(path, tmp_path / "w")] == [f"text {n}" for n in range(5)]


def test_a_field_several_pictures_and_conversations(tmp_path: Path) -> None:
    talk = {"conversations": [{"from": "human", "value": "<image><image>?"}, {"from": "gpt", "value": "two"}]}
    members = [("t.0.png", png(0)), ("t.1.png", png(1)), ("t.json", json.dumps(talk).encode())]
    records = read(write(tmp_path / "x.tar", members), tmp_path / "w")
    assert [len(r.images) for r in records] == [2] and records[0].messages is not None
    alt = [("u.png", png(0)), ("u.json", json.dumps({"alt": "said", "caption": "no"}).encode())]
    records = read(write(tmp_path / "y.tar", alt), tmp_path / "w", text_field="alt")
    assert [r.text for r in records] == ["said"]


def test_braces_and_globs_are_in_order_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path / f"x-{n:03d}.tar", [(f"{n}.png", png(n)), (f"{n}.txt", f"tar {n}".encode())])
    for pattern in ("x-{000..002}.tar", "x-*.tar"):
        found = inputs(source(tmp_path / pattern), tmp_path)
        assert [item.found.name for item in found] == [f"x-{n:03d}.tar" for n in range(3)]
    with pytest.raises(UserError, match=r"x-003\.tar"):
        inputs(source(tmp_path / "x-{000..003}.tar"), tmp_path)
    with tarfile.open(tmp_path / "z.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match="compressed"):
        inputs(source(tmp_path / "z.tar"), tmp_path)
