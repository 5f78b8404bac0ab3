"""Other people's tars, indexed where they are: what the webdataset library reads, we read, and damage is named."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from data_pipeline.ingest import tar_groups
from data_pipeline.ingest.adopt import adopt, picture_size
from data_pipeline.ingest.sources.tars import Group
from data_pipeline.ingest.tar_groups import Lost, groups
from data_pipeline.stream.read.dataset import BadSample, Dataset
from pretrain.cli.main import main
from tests.data_pipeline.stream.read.test_corruption import TRIALS, damage
from tests.support.datasets import samples, write_dataset

THIRD = "\u00e4 third"


def picture(width: int, height: int, kind: str = "JPEG", orientation: int = 1) -> bytes:
    sink = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, kind, **({"exif": exif} if orientation > 1 else {}))
    return sink.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    folder = tmp_path / "tars"
    folder.mkdir()
    write_tar(
        folder / "a-0.tar",
        [
            ("0001.jpg", picture(64, 48)),
            ("0001.txt", b"a first caption"),
            ("0002.json", json.dumps({"caption": "a second", "url": "x"}).encode()),
            ("0002.png", picture(40, 40, "PNG")),
            ("0003.jpg", picture(64, 32)),
            ("0003.cls", b"7"),
            ("sub/0004.webp", picture(48, 96, "WEBP")),
            ("sub/0004.caption", THIRD.encode()),
        ],
    )
    long = "n" * 150
    write_tar(folder / "a-1.tar", [(f"{long}.jpg", picture(33, 65, orientation=6)), (f"{long}.txt", b"turned")])
    return folder


def test_they_become_a_dataset_without_a_copy(tars: Path) -> None:
    before = {path.name: path.read_bytes() for path in tars.iterdir()}
    totals = adopt(sorted(tars.glob("*.tar")), tars, progress=False).totals
    assert (totals["kept"], totals["rejected"], totals["rows"]) == (4, {"source/no_text": 1}, 5)
    assert all((tars / name).read_bytes() == data for name, data in before.items())
    dataset = Dataset(str(tars))
    assert [dataset.key(k) for k in range(4)] == ["0001", "0002", "sub/0004", "n" * 150]
    assert [dataset.sizes(k)[0] for k in range(4)] == [(64, 48), (40, 40), (48, 96), (65, 33)]
    assert [dataset.read(k).conversation.text for k in range(4)] == ["a first caption", "a second", THIRD, "turned"]
    assert bytes(dataset.read(1).images[0]) == picture(40, 40, "PNG")


def test_it_is_what_the_webdataset_library_reads(tars: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    adopt(sorted(tars.glob("*.tar")), tars, progress=False)
    theirs = {}
    for sample in webdataset.WebDataset([str(p) for p in sorted(tars.glob("*.tar"))], shardshuffle=False):
        theirs[sample["__key__"]] = {value for name, value in sample.items() if not name.startswith("__")}
    dataset = Dataset(str(tars))
    for number in range(len(dataset)):
        found = dataset.read(number)
        assert {bytes(found.images[0]), bytes(found.body)} <= theirs[dataset.key(number)]


def test_another_folder_links_to_them(tars: Path, tmp_path: Path) -> None:
    adopt(sorted(tars.glob("*.tar")), tmp_path / "set", progress=False)
    assert (tmp_path / "set" / "a-0.tar").is_symlink() and not (tars / "manifest.json").exists()
    assert len(Dataset(str(tmp_path / "set"))) == 4


def test_a_cut_tar_is_indexed_up_to_the_damage(tars: Path) -> None:
    data = (tars / "a-0.tar").read_bytes()
    (tars / "a-0.tar").write_bytes(data[: len(data) // 2])
    totals = adopt(sorted(tars.glob("*.tar")), tars, progress=False).totals
    assert totals["rejected"]["source/tar_damaged"] == 1 and 1 < totals["kept"] < 4


@pytest.mark.parametrize("kind", ["header cut", "payload cut", "header flip"])
def test_indexing_goes_on_behind_damage(kind: str, tmp_path: Path) -> None:
    """The damaged sample and at most its neighbours are lost; what is kept has its own bytes; the damage is named."""
    whole = write_dataset(tmp_path / "whole", samples(30, 5), shard_size=30)
    reference, data = Dataset(str(whole)), (whole / "00000.tar").read_bytes()
    wanted = {reference.key(n): reference.read(n) for n in range(30)}
    lost = 0
    for trial in range(TRIALS):
        random = np.random.default_rng(trial)
        victim = int(random.integers(1, 29))
        folder = tmp_path / f"{trial}"
        folder.mkdir()
        (folder / "x.tar").write_bytes(damage(kind, data, reference.place(victim), random))
        totals = adopt([folder / "x.tar"], folder, progress=False).totals
        found = Dataset(str(folder))
        keys = {found.key(n): n for n in range(len(found))}
        missing = [n for n in range(30) if reference.key(n) not in keys]
        assert set(missing) <= {victim - 1, victim, victim + 1} and len(keys) == len(found), f"{trial}: {missing}"
        assert bool(missing) == bool(totals["rejected"].get("source/tar_damaged")), f"{trial}: {totals}"
        lost += bool(missing)
        for key, number in keys.items():
            one, other = found.read(number), wanted[key]
            assert bytes(one.body) == bytes(other.body), f"{trial}: {key} has another's text"
            assert list(map(bytes, one.images)) == list(map(bytes, other.images)), f"{trial}: {key}"
    assert lost > 0.8 * TRIALS, "a flip in the blanks of a header changes nothing, but most damage does"


def test_a_tar_that_only_lacks_its_end_loses_nothing(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [(f"{n:04d}.{kind}", b"x" * 100) for n in range(5) for kind in ("cls", "txt")])
    data = (tmp_path / "a.tar").read_bytes()
    members = 5 * 2 * 1024
    (tmp_path / "a.tar").write_bytes(data[:members])
    assert not data[members:].strip(b"\0")
    found = list(groups(io.BytesIO(data[:members]), memoryview(data[:members])))
    assert [what.key for what in found if isinstance(what, Group)] == [f"{n:04d}" for n in range(5)]
    assert [what.offset for what in found if isinstance(what, Lost)] == [members]


def test_tars_that_were_joined_are_indexed_to_the_end(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", [(f"{name}{n}.{kind}", b"x") for n in range(4) for kind in ("jpg", "txt")])
    both = (tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes()
    found = [what.key for what in groups(io.BytesIO(both), memoryview(both)) if isinstance(what, Group)]
    assert found == ["a0", "a1", "a2", "b0", "b1", "b2", "b3"], "the one before the seam may lack a member"


def test_a_tar_of_nothing_but_damage_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_groups, "MOST_DAMAGES", 5)
    header = tarfile.TarInfo("a.txt").tobuf(tarfile.USTAR_FORMAT)
    junk = (header + b"junk" * 200) * 100
    found = list(groups(io.BytesIO(junk), memoryview(junk)))
    assert len([what for what in found if isinstance(what, Lost) and what.why.startswith(("no header", "a "))]) >= 5
    assert len(found) <= 10 and "nothing behind it is read" in str(found[-1])


def test_a_flipped_byte_is_found_when_it_is_read(tars: Path) -> None:
    adopt(sorted(tars.glob("*.tar")), tars, progress=False)
    place = Dataset(str(tars)).place(0)
    data = bytearray((tars / "a-0.tar").read_bytes())
    data[place.members[0][0] + 30] ^= 1
    (tars / "a-0.tar").write_bytes(data)
    assert isinstance(Dataset(str(tars)).read_many([0])[0], BadSample)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("size", [(1, 1), (300, 17)])
def test_sizes_are_those_of_the_decoder(kind: str, size: tuple[int, int]) -> None:
    assert picture_size(memoryview(picture(*size, kind))) == size


def test_the_command(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "index", str(tars), "--out", str(tmp_path / "set"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["kept"], said["tars"]) == (4, 2)
    assert main(["data", "index", str(tars), "--out", str(tmp_path / "set")]) == 2
    assert "holds a dataset already" in capsys.readouterr().err
    assert main(["data", "index", str(tmp_path / "nowhere")]) == 2
    with pytest.raises(UserError, match=r"two tars are named a-0\.tar"):
        adopt([tars / "a-0.tar", tmp_path / "a-0.tar"], tmp_path / "other")
