"""SLURM's short forms: lists of hosts and of tasks per node."""

import re
from collections.abc import Iterator

from configs.errors import UserError

MOST_HOSTS = 1 << 20


def first_host(nodelist: str) -> str:
    """First host of a SLURM node list.

    >>> first_host("gpu[003-007,012],cpu1")
    'gpu003'
    >>> first_host("rack[1-2]n[08,10]-ib")
    'rack1n08-ib'
    """
    return next(_hosts(nodelist), "127.0.0.1")


def hosts_of(nodelist: str) -> list[str]:
    """Every host of a SLURM node list, in order.

    >>> hosts_of("gpu[009-011,020],cpu1")
    ['gpu009', 'gpu010', 'gpu011', 'gpu020', 'cpu1']
    >>> hosts_of("rack[1-2]n[8,9]")
    ['rack1n8', 'rack1n9', 'rack2n8', 'rack2n9']
    """
    return list(_hosts(nodelist))


def _hosts(nodelist: str) -> Iterator[str]:
    for word in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodelist):
        yield from _expanded(word.strip(), nodelist)


def _expanded(word: str, nodelist: str) -> Iterator[str]:
    """Hosts of one word, whose brackets multiply."""
    before, bracket, rest = word.partition("[")
    if not bracket:
        yield before
        return
    inside, _, after = rest.partition("]")
    for part in inside.split(","):
        form = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if form is None or int(form[2] or form[1]) - int(form[1]) > MOST_HOSTS:
            raise UserError(f"{nodelist!r} in the environment is not a node list of SLURM's, such as gpu[003-007,012]")
        for number in range(int(form[1]), int(form[2] or form[1]) + 1):
            for tail in _expanded(after, nodelist):
                yield f"{before}{number:0{len(form[1])}}{tail}"


def tasks_on_node(tasks: str, node: int) -> int:
    """Tasks on one node, from SLURM's short form.

    >>> [tasks_on_node("4(x2),1", node) for node in range(3)]
    [4, 4, 1]
    """
    counts: list[int] = []
    for part in tasks.split(","):
        form = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if form is None:
            raise UserError(f"SLURM_TASKS_PER_NODE={tasks!r} in the environment is not SLURM's form, such as 4(x2),1")
        counts += [int(form[1])] * int(form[2] or 1)
    return counts[node] if node < len(counts) else counts[-1]
