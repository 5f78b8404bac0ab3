"""One of the ranks that measure at once. Arguments: the folder of results, `quick` or `full`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from cluster.place import find_place


def run_as_rank() -> None:
    """Measure, write FOLDER/rank-N.json, leave."""
    folder, how = Path(sys.argv[1]), sys.argv[2]
    found = measured(how == "quick")
    place = find_place(os.environ)
    target = folder / f"rank-{place.rank if place else 0}.json"
    target.write_text(json.dumps(found))


def measured(quick: bool) -> dict[str, Any]:
    """Everything that this rank measures; SI units."""
    import torch

    from pretrain.doctor.hooks import engine_times
    from pretrain.doctor.kernels import rates
    from pretrain.doctor.peaks import collectives, matrix_products, memory
    from pretrain.mesh import alone, destroy_mesh, hardware, init_mesh

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    found: dict[str, Any] = {"hardware": hardware()}
    with alone() as mesh:  # all ranks at once, but none waits for another
        found["products"] = matrix_products(mesh, quick)
        found["moved"] = memory(mesh)
        found["kernels"] = {precision: rates(mesh, precision, quick) for precision in ("bf16", "fp32")}
        found["engine"] = engine_times(mesh, quick)
    mesh = init_mesh(find_place(os.environ), 1)
    found["collectives"] = collectives(mesh, quick)
    destroy_mesh()
    return found
