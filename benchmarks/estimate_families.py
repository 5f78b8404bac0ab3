"""Every tiny family under every layout of the issue: parameters, states, activations, traffic of real engines.

One line a family: the number of layouts (ZeRO 0, 1, 3 x TP 1, 2 at DP 2, everything trained and a part of it), and of each
quantity whether all of them are exact, else the worst error.
"""

from collections.abc import Iterable
from typing import Any

from tests.cluster.cost_families import OTHERS, families
from tests.cluster.test_cost_families import LAYOUTS
from tests.support.pool import Pool

KINDS = ("states", "activations", "gathered", "sent")


def compare_families() -> None:
    import transformers

    pool = Pool()
    print("| family | layouts | " + " | ".join(KINDS) + " |")
    print("|---" * (2 + len(KINDS)) + "|")
    for name, tree in families(transformers).items():
        worst = dict.fromkeys(KINDS, 0.0)
        for ranks, tp, zero, precision, part in LAYOUTS:
            arguments = {"tree": tree, "zero": zero, "precision": precision, "part": part}
            for found in pool.run("tests.cluster.cost_cases:of_family", ranks, tp, timeout=300.0, **arguments):
                for kind in KINDS:
                    worst[kind] = max([worst[kind], *(_error(*pair) for pair in _pairs(found[kind]))])
        shown = " | ".join("exact" if not error else f"{error:.3%}" for error in worst.values())
        label = f"({name})" if name in OTHERS else name
        print(f"| {label} | {len(LAYOUTS)} | {shown} |", flush=True)
    pool.close()


def _pairs(found: Any) -> Iterable[tuple[float, float]]:
    """[measured, estimated] pairs of numbers out of what a case returns."""
    first = found[0]
    if isinstance(first, dict):
        return [(found[0].get(key, 0), found[1].get(key, 0)) for key in {*found[0], *found[1]}]
    return [tuple(found)] if not isinstance(first, list) else [tuple(pair) for pair in found]


def _error(measured: float, estimated: float) -> float:
    return abs(estimated - measured) / max(measured, estimated, 1.0)
