"""How long training stands still for a checkpoint: ours, DeepSpeed's save_checkpoint, torch's async_save, the same state.

    python benchmarks/checkpoint.py measure --parameters 90 --ranks 2     # 1 GB of state for each of two ranks

A ZeRO-3 engine of that many million parameters a rank does steps of a fixed work; every few steps it saves, by one way
after the other in turn. Standing still is what the training loop waits: in the call, and before the next update. The
seconds of the steps beside a checkpoint are given too: what is written in the background takes its share of the cores.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
STEPS_BETWEEN = 3
ROUNDS = 4


def rank(folder: Path, millions: float) -> None:
    sys.path.insert(0, str(ROOT))
    import torch
    import torch.distributed.checkpoint as dcp

    from cluster.place import find_place
    from configs.training import CheckpointConfig, OptimConfig, ParallelConfig
    from pretrain.commits import Commits
    from pretrain.engine import Engine
    from pretrain.mesh import init_mesh
    from pretrain.model.linear import Builder, WholeLinear
    from pretrain.optim import make_optimizer, set_rates
    from pretrain.stages import apply_stage
    from pretrain.zero_config import born

    torch.set_num_threads(1)
    mesh = init_mesh(find_place(os.environ), 1)
    parallel = ParallelConfig(zero=3, precision="bf16")
    width, layers = 2048, max(1, round(millions * 1e6 * mesh.world / 2048**2))
    with born(parallel, mesh):
        build = Builder(0, 0, 1, torch.bfloat16, mesh.device)

        class Stack(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = torch.nn.ModuleList(
                    WholeLinear(build, f"decoder.{n}", width, width, std=0.02) for n in range(layers)
                )

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for layer in self.layers:
                    x = torch.relu(layer(x))
                return x

        model = Stack()
    table = apply_stage(model, {"decoder": 1e-4})
    engine = Engine(model, make_optimizer(table, OptimConfig()), parallel, mesh, 1, 1.0)
    commits = Commits(CheckpointConfig(keep_last=1), folder / "ours", mesh, lambda text: None)
    torch.manual_seed(mesh.rank)
    x = torch.randn(32, width, dtype=torch.bfloat16)
    gloo = torch.distributed.new_group(backend="gloo")
    times: dict[str, list[float]] = {}
    beside: dict[str, list[float]] = {"none": []}
    begun_rss = 0

    def step(wait: bool) -> float:
        set_rates(engine.optimizer, 1.0)
        out = engine.deepspeed(x)
        engine.backward(out.float().square().mean())
        stood = commits.saver.copied() if wait else 0.0
        engine.step()
        return stood

    def ours(number: int) -> float:
        commits.stall = 0.0
        commits.order(number, engine, {"optimizer_steps": engine.optimizer_steps()})
        return commits.take_stall()

    pending: list[object] = []

    def deepspeed_save(number: int) -> float:
        begun = time.perf_counter()
        engine.deepspeed.save_checkpoint(str(folder / "deepspeed"), tag=f"s{number}")
        return time.perf_counter() - begun

    def dcp_async(number: int) -> float:
        begun = time.perf_counter()
        for future in pending:
            future.result()  # type: ignore[attr-defined]
        pending.clear()
        state = {}
        for parameter in model.parameters():
            held = engine.held(parameter, ("master", "exp_avg", "exp_avg_sq"))
            from pretrain.model.linear import logical_of

            for kind, view in held.views.items() if held else ():
                state[f"{kind}/{logical_of(parameter).name}/{mesh.rank}"] = view
        pending.append(dcp.async_save(state, checkpoint_id=str(folder / "dcp" / f"s{number}"), process_group=gloo))
        return time.perf_counter() - begun

    for _ in range(2):
        step(False)
    ways = {"looksay": ours, "DeepSpeed save_checkpoint": deepspeed_save, "torch async_save": dcp_async}
    peaks = {}
    number = 0
    for turn in range(ROUNDS):
        for name, way in ways.items():
            number += 1
            torch.distributed.barrier()
            begun_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            stood = way(number)
            first = time.perf_counter()
            stood += step(name == "looksay")
            after = [time.perf_counter() - first]
            for _ in range(STEPS_BETWEEN - 1):
                first = time.perf_counter()
                step(False)
                after.append(time.perf_counter() - first)
            if turn:  # the first one makes buffers
                times.setdefault(name, []).append(stood)
                beside.setdefault(name, []).append(sum(after))
            peaks[name] = max(peaks.get(name, 0), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun_rss)
            if name == "looksay":
                commits.settle()
            for future in pending:
                future.result()  # type: ignore[attr-defined]
            pending.clear()
            torch.distributed.barrier()
            if mesh.is_first:
                for other in ("deepspeed", "dcp"):
                    shutil.rmtree(folder / other, ignore_errors=True)
            first = time.perf_counter()
            for _ in range(STEPS_BETWEEN):
                step(False)
            beside["none"].append(time.perf_counter() - first)
    state = sum(
        view.numel() * view.element_size()
        for parameter in model.parameters()
        for held in [engine.held(parameter, ("master", "exp_avg", "exp_avg_sq"))]
        for view in (held.views.values() if held else ())
    )
    if mesh.is_first:
        (committed,) = (folder / "ours" / "checkpoints").glob("step-*")
        written = sum(path.stat().st_size for path in committed.iterdir())
        print(
            json.dumps(
                {
                    "state_gb_per_rank": state / 1e9,
                    "stood_still_s": {name: median(values) for name, values in times.items()},
                    "all": times,
                    "steps_beside_s": {name: median(values) for name, values in beside.items()},
                    "peak_rss_growth_gb": {name: kb / 1e6 for name, kb in peaks.items()},
                    "bytes_written_over_state": written / (state * mesh.world),
                    "ratio_to_deepspeed": median(times["looksay"]) / median(times["DeepSpeed save_checkpoint"]),
                    "ratio_to_async_save": median(times["looksay"]) / median(times["torch async_save"]),
                    "to_commit_s": median(seconds for _, seconds in commits.saver.committed),
                },
                indent=1,
            ),
            flush=True,
        )
    torch.distributed.barrier()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "rank"])
    parser.add_argument("--parameters", type=float, default=90, help="millions for each rank (12 bytes of state each)")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--folder", default=None)
    args = parser.parse_args()
    if args.what == "rank":
        rank(Path(args.folder), args.parameters)
        return
    folder = Path(args.folder or tempfile.mkdtemp(prefix="looksay-checkpoint-"))
    (folder / "ours").mkdir(parents=True, exist_ok=True)
    try:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.ranks), __file__, "rank"]
        more = ["--parameters", str(args.parameters), "--folder", str(folder)]
        subprocess.run([sys.executable, *command, *more], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
