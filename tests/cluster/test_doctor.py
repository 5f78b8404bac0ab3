"""What doctor looks at, on made-up machines: each fault is found, named, and has something to do about it."""

import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from cluster.doctor import machine, reach
from cluster.doctor.disk import check_disks, check_folder, check_shared_memory
from cluster.doctor.findings import Finding, exit_code
from cluster.doctor.reach import address_of, check_reach, slurm_finding
from cluster.doctor.versions import TESTED, check_versions, conflicts_of
from configs.scheduler import SchedulerConfig

GB = 1 << 30


def by_name(findings: object) -> dict[str, Finding]:
    return {one.name: one for one in findings}  # type: ignore[attr-defined]


def test_this_environment_fits_together() -> None:
    found = by_name(check_versions())
    assert [found[name].level for name in ("python", "packages", "fitting")] == ["ok", "ok", "ok"]
    assert found["packages"].figures["versions"]["deepspeed"] == version("deepspeed")


def test_versions_that_do_not_fit_are_named() -> None:
    def old(name: str) -> str:
        return "1.4.0" if name == "torch" else TESTED[name]

    def lacking(name: str) -> str:
        if name == "ray":
            raise PackageNotFoundError(name)
        return TESTED[name]

    assert by_name(check_versions((3, 9), old))["python"].level == "fail"
    warned = by_name(check_versions(get=old))["packages"]
    assert warned.level == "warn" and "torch 1.4.0 (tested: 2.13.0)" in warned.said
    assert "ray not installed" in by_name(check_versions(get=lacking))["packages"].said
    assert any("torch" in said for said in conflicts_of({"torch": "1.4.0"}))
    assert not list(conflicts_of({}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """/proc and /sys of a machine with 64 GB, in a group of cgroup v2."""
    for name, text in {
        "proc/cpuinfo": "model name\t: Fast\nflags\t\t: fpu avx512_bf16\n",
        "proc/meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable: {60 << 20} kB\n",
        "proc/self/cgroup": "0::/job\n",
        "sys/fs/cgroup/job/memory.max": "max\n",
        "sys/fs/cgroup/job/memory.current": "0\n",
        "sys/fs/cgroup/job/cpu.max": "max 100000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "dev").mkdir()
    return tmp_path


def test_limits_of_a_control_group_count(root: Path) -> None:
    assert by_name(machine.check_machine(root))["memory"].level == "ok"
    assert machine.cpu_quota(root) is None
    group = root / "sys/fs/cgroup/job"
    group.joinpath("memory.max").write_text(str(6 * GB))
    group.joinpath("memory.current").write_text(str(GB))
    group.joinpath("cpu.max").write_text("50000 100000")
    found = by_name(machine.check_machine(root))
    assert found["memory"].level == "warn" and "limited to 6.4 GB" in found["memory"].said
    assert found["memory"].figures["free"] == 5 * GB
    assert found["processor"].level == "warn" and "0.5" in found["processor"].said
    group.joinpath("memory.max").write_text(str(2 * GB))
    assert by_name(machine.check_machine(root))["memory"].level == "fail"


def test_limits_of_the_old_control_groups_count(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("5:memory:/x\n4:cpu,cpuacct:/\n0::/\n")
    for name, text in {
        "memory/x/memory.limit_in_bytes": str(4 * GB),
        "memory/x/memory.usage_in_bytes": str(GB),
        "cpu/cpu.cfs_quota_us": "150000",
        "cpu/cpu.cfs_period_us": "100000",
    }.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine.memory_limit(root) == (4 * GB, GB)
    assert machine.cpu_quota(root) == 1.5
    (root / "sys/fs/cgroup/memory/x/memory.limit_in_bytes").write_text(str(2**63 - 4096))
    assert machine.memory_limit(root) == (None, 0)


def test_a_busy_machine_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1e6, 0.0, 0.0))
    assert "busy" in by_name(machine.check_machine(root))["processor"].said


@pytest.mark.parametrize(
    ("code", "told", "level", "said"),
    [
        (0, "H100, 81559, 1, 550.1, 0\nH100, 81559, 1, 550.1, 0\n", "ok", "2 x H100"),
        (0, "H100, 81559, 1, 550.1, 0\nA100, 81559, 1, 550.1, 0\n", "warn", "A100, H100"),
        (0, "H100, 81559, 40000, 550.1, 0\n", "warn", "memory is in use"),
        (0, "H100, 81559, 1, 550.1, 3\n", "fail", "uncorrected memory errors"),
        (9, "No devices were found\n", "fail", "No devices were found"),
    ],
)
def test_gpus_as_the_driver_tells_them(code: int, told: str, level: str, said: str) -> None:
    found = machine.gpu_finding(code, told)
    assert found.level == level and said in found.said


def test_gpus_without_the_drivers_tools(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert by_name(machine.check_machine(root))["devices"].level == "ok"
    (root / "dev" / "nvidia0").touch()
    found = by_name(machine.check_machine(root))["devices"]
    assert found.level == "warn" and "--nv" in found.fix


class Told:
    """statvfs of a file system with so much left."""

    f_frsize, f_blocks, f_files = 4096, 1 << 28, 1 << 20

    def __init__(self, free: float, inodes: int):
        self.f_bavail, self.f_favail = int(free / 4096), inodes


@pytest.mark.parametrize(
    ("free", "inodes", "kind", "level", "said"),
    [
        (1e12, 1 << 20, "ext4", "ok", "1000.0 GB free"),
        (1e9, 1 << 20, "ext4", "fail", "1.0 GB free"),
        (1e10, 1 << 20, "ext4", "warn", "10.0 GB free"),
        (1e12, 5, "ext4", "warn", "5 inodes free"),
        (1e12, 1 << 20, "nfs4", "warn", "a network's file system"),
    ],
)
def test_disks(
    free: float, inodes: int, kind: str, level: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.doctor.disk.os.statvfs", lambda path: Told(free, inodes))
    monkeypatch.setattr("cluster.doctor.disk.file_system", lambda path: kind)
    monkeypatch.setattr("configs.mounts.file_system", lambda path: kind)
    found = check_folder("temporary files", str(tmp_path / "not" / "yet"), network_is_fine=False)
    assert found.level == level and said in found.said
    if kind == "nfs4":
        assert check_folder("disk", str(tmp_path), network_is_fine=True).level == "ok"
    assert check_shared_memory(str(tmp_path)).level == ("warn" if free <= 1e9 else "ok")


def test_disks_of_this_machine_are_found(tmp_path: Path) -> None:
    names = [one.name for one in check_disks([str(tmp_path)])]
    assert names == ["disk", "temporary files", "cache", "shared memory"]
    assert check_shared_memory("/no/such/folder").level == "fail"


def test_partitions_and_nodes_of_slurm() -> None:
    told = "gpu|3|idle|up\ngpu|1|down*|up\ncpu|2|drained|up\n"
    assert slurm_finding(told, "gpu").level == "ok"
    assert "gpu: 1 down, 3 idle" in slurm_finding(told, None).said
    assert slurm_finding(told, "cpu").level == "fail"
    missing = slurm_finding(told, "gpus")
    assert missing.level == "fail" and "cpu, gpu" in missing.fix


def test_what_the_site_wants_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach.shutil, "which", lambda name: None)
    wanted = by_name(check_reach(SchedulerConfig(type="slurm"), {}))
    assert wanted["SLURM"].level == "fail" and "login node" in wanted["SLURM"].fix
    assert by_name(check_reach(None, {}))["SLURM"].level == "ok"


def test_ray_is_reached_and_its_token_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert by_name(check_reach(None, {"RAY_ADDRESS": address}))["Ray"].level == "warn"
        there = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
        assert by_name(check_reach(None, there))["Ray"].level == "ok"
    gone = by_name(check_reach(None, {"RAY_ADDRESS": address}))["Ray"]
    assert gone.level == "fail" and address in gone.said
    assert address_of("ray://head") == ("head", 10001) and address_of("auto") == ("127.0.0.1", 6379)
    assert address_of("[::1]:7") == ("::1", 7) and address_of("http://h") == ("h", 8265)


def test_only_failures_fail() -> None:
    assert exit_code([Finding("a", "ok", ""), Finding("b", "warn", "", "do")]) == 0
    assert exit_code([Finding("c", "fail", "", "do")]) == 1
    with pytest.raises(AssertionError):
        Finding("d", "warn", "nothing to do")
