"""The place of a rank out of what torchrun, SLURM and our launcher leave in the environment."""

import pytest

from cluster.hostlist import first_host, hosts_of, tasks_on_node
from cluster.interface import interface_towards, settings_of
from cluster.place import Place, find_node, find_place, world_of
from configs.errors import UserError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29511",
}
SRUN = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "4,1",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
}


def test_torchrun() -> None:
    assert find_place(TORCHRUN) == Place(5, 8, 1, 4, 1, "n1", 29511, "torchrun")


def test_srun() -> None:
    place = find_place(SRUN)
    assert place is not None
    assert place == Place(4, 5, 0, 1, 1, "gpu003", place.master_port, "slurm")


def test_all_ranks_of_a_step_agree_on_one_port_and_other_steps_take_another() -> None:
    def port(**changed: str) -> int:
        place = find_place(SRUN | changed)
        assert place is not None
        assert 1024 < place.master_port < 32768, "below the ephemeral ports"
        return place.master_port

    assert port(SLURM_PROCID="0", SLURM_NODEID="0") == port()
    others = [port(SLURM_JOB_ID="123457"), port(SLURM_STEP_ID="1"), port(SLURM_RESTART_COUNT="1")]
    assert len({port(), *others}) == 4
    assert port(MASTER_PORT="29555") == 29555


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NODEID": "0"},  # the batch script
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun --pty bash
        {"WORLD_SIZE": "4"},
    ],
    ids=["nothing", "batch script", "one task", "half of torchrun"],
)
def test_alone(environ: dict[str, str]) -> None:
    assert find_place(environ) is None


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_PORT"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4x2"}, "4x2"),
    ],
    ids=["missing", "not a number", "another form"],
)
def test_what_cannot_be_read_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        find_place(environ)


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu[003-007,012],cpu1", "gpu003"),
        ("cpu1,gpu[003-007]", "cpu1"),
        ("n[7]", "n7"),
        ("a-b[10,12-14]", "a-b10"),
        ("rack[1-2]n[08-10]", "rack1n08"),
        ("n[1-2].cluster.local,m1", "n1.cluster.local"),
        ("", "127.0.0.1"),
    ],
)
def test_first_host_of_any_form(nodelist: str, first: str) -> None:
    assert first_host(nodelist) == first


@pytest.mark.parametrize(("tasks", "counts"), [("2", [2, 2]), ("2(x3),1", [2, 2, 2, 1]), ("1,3,2(x2)", [1, 3, 2, 2])])
def test_tasks_per_node(tasks: str, counts: list[int]) -> None:
    assert [tasks_on_node(tasks, node) for node in range(len(counts))] == counts


UNDER_SUBMIT = {
    **SRUN,
    "LOOKSAY_RANKS_PER_NODE": "8",
    "SLURM_STEP_NODELIST": "gpu[003-004,7]",
    "SLURM_RESTART_COUNT": "2",
}


def test_a_launcher_knows_its_node() -> None:
    found = find_node(UNDER_SUBMIT)
    assert found is not None
    assert (found.node, found.nodes, found.ranks, found.world, found.host) == (1, 3, 8, 24, "gpu004")
    assert (found.master_addr, found.job, found.attempt) == ("gpu003", "123456", "123456.2")
    assert find_place(UNDER_SUBMIT) is None, "the launcher is no rank"
    assert world_of(UNDER_SUBMIT, 2) == 24
    assert find_node({**UNDER_SUBMIT, **TORCHRUN}) is None, "its ranks are no launchers"


def test_who_launches_alone() -> None:
    assert find_node(SRUN) is None and find_node({}) is None
    one = find_node({"LOOKSAY_RANKS_PER_NODE": "4", "SLURM_JOB_ID": "9", "SLURM_NTASKS": "2"})
    assert one is not None and (one.nodes, one.world) == (1, 4)
    assert [world_of(environ, 2) for environ in ({}, TORCHRUN, SRUN)] == [2, 8, 5]
    with pytest.raises(UserError, match="SLURM_NODEID=9"):
        find_node({**UNDER_SUBMIT, "SLURM_NODEID": "9"})


@pytest.mark.parametrize(
    ("nodelist", "hosts"),
    [
        ("n1", ["n1"]),
        ("gpu[009-011,020],cpu1", ["gpu009", "gpu010", "gpu011", "gpu020", "cpu1"]),
        ("r[1-2]n[08-09]-ib", ["r1n08-ib", "r1n09-ib", "r2n08-ib", "r2n09-ib"]),
        ("a[1,3].local,b", ["a1.local", "a3.local", "b"]),
        ("", []),
    ],
)
def test_hosts_of_any_form(nodelist: str, hosts: list[str]) -> None:
    assert hosts_of(nodelist) == hosts


def test_a_list_that_is_none_is_named() -> None:
    with pytest.raises(UserError, match=r"n\[a-b\]"):
        hosts_of("n[a-b]")


def test_the_interface_is_the_one_that_leads_there() -> None:
    assert interface_towards(["127.0.0.1", "127.0.0.2"], "127.0.0.1") is None, "loopback leads nowhere"
    assert interface_towards(["no.such.host.invalid"], "no.such.host.invalid") is None
    told = settings_of({"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "2", "SECRET": "x"})
    assert told == "NCCL_DEBUG=INFO, OMP_NUM_THREADS=2"
