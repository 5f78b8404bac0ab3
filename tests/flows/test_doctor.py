"""The command `looksay doctor` as a user meets it; measurements by real ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.site import load_hardware
from pretrain.cli.main import main
from pretrain.doctor.storage import check_storage
from tests.house.test_imports import HEAVY, loaded_by


def test_looking_loads_nothing_heavy() -> None:
    assert not loaded_by(["doctor", "--no-measure"]) & {*HEAVY, "tokenizers"}


def test_it_measures_and_its_site_serves_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cluster.doctor.machine.os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert main(["doctor", "--quick", "--json", "--ranks", "2", "--write-site", "mine.yaml"]) == 0
    tree = json.loads(capsys.readouterr().out)
    found = {one["name"]: one for one in tree["findings"]}
    for name in ("products fp32", "products bf16", "memory bandwidth", "collectives", "storage ."):
        assert found[name]["figures"], name
    assert all(1e7 < found["collectives"]["figures"][kind] < 1e12 for kind in ("all_reduce", "all_gather"))
    hardware = load_hardware("mine.yaml")
    assert hardware.devices_per_node == 2 and hardware.engine[3].module_us > 0
    given = hardware.model_fields_set - {"kind", "device", "attention", "sources"}
    assert all("looksay doctor on 20" in hardware.sources[name] for name in given)
    assert main(["estimate", "tiny_train", "--site", "mine.yaml", "--json"]) == 0
    seconds = json.loads(capsys.readouterr().out)["seconds"]
    assert 0 < seconds["engine"] < seconds["total"] < 60
    site = yaml.safe_load(Path("mine.yaml").read_text())
    site["hardware"]["peak_tflops"]["fp32"] *= 1000
    Path("fast.yaml").write_text(yaml.safe_dump(site))
    seen = _against(tree["measured"], "fast.yaml")
    assert seen["products fp32"].level == "warn" and "of what the site says" in seen["products fp32"].said
    assert seen["products bf16"].level == "ok"


def _against(measured: dict[str, Any], site: str) -> dict[str, Any]:
    from configs.site import load_site
    from pretrain.cli.doctor import _peaks

    return {one.name: one for one in _peaks(measured, load_site(site))}


def test_a_site_that_does_not_answer_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.doctor.reach.shutil.which", lambda name: None)
    (tmp_path / "mine.yaml").write_text("scheduler: slurm\n")
    assert main(["doctor", "--no-measure", "--site", str(tmp_path / "mine.yaml")]) == 1
    out = capsys.readouterr().out
    assert "FAIL  SLURM" in out and "-> go to a login node" in out


def test_where_packages_are_missing_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.doctor.versions.TESTED", {"no-such-package": "1.0"})
    assert main(["doctor", "--write-site", str(tmp_path / "mine.yaml"), "--json"]) == 1
    tree = json.loads(capsys.readouterr().out)
    assert tree["measured"] is None and not (tmp_path / "mine.yaml").exists()
    assert any("no-such-package not installed" in one["said"] for one in tree["findings"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--write-site", "x.yaml", "--no-measure"], "leave out --no-measure"),
        (["--write-site", "x.txt"], "does not end in .yaml"),
        (["--site", "no"], "no site is called 'no'"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_storage_that_loses_bytes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_storage(str(tmp_path), True).figures["write"] > 0
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("pretrain.doctor.storage.read_bytes", lambda name: b"other")
    assert check_storage(str(tmp_path), True).level == "fail"
    assert check_storage("/proc/nowhere", True).level == "fail"
