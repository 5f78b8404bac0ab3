"""One pool of 4 gloo ranks for all tests of TP, DP and ZeRO: started once, formed anew into 1 to 4 ranks for each call.

A call that hangs or dies costs its own test only: the pool's processes are replaced.
"""

import importlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import tempfile
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any

SIZE = 4
START_SECONDS = 120.0


class RankError(AssertionError):
    """A rank raised, died or did not answer in time."""


def _serve(pipe: Connection) -> None:
    """A worker: import the heavy packages once, then run what it is sent."""
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    import deepspeed  # noqa: F401
    import megatron.core  # noqa: F401

    from pretrain.mesh import destroy_mesh, init_mesh
    from tests.support.ranks import forget_models, place_of

    pipe.send("ready")
    while True:
        task = pipe.recv()
        if task is None:
            return
        target, rank, ranks, tp, store, seconds, arguments = task
        try:
            forget_models()
            mesh = init_mesh(place_of(rank, ranks), tp, seconds, init_method=f"file://{store}")
            module, name = target.split(":")
            result = getattr(importlib.import_module(module), name)(mesh, **arguments)
            destroy_mesh()
            pipe.send(("ok", result))
        except BaseException:
            pipe.send(("error", traceback.format_exc()))
            return  # its group is in an unknown state: the pool starts a fresh process


class Pool:
    """`pool.run("tests.numerics.cases:function", ranks=2, tp=2, steps=3)` -> each rank's result, in order."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[Any, Connection]] = []
        self._start()

    def _start(self) -> None:
        fresh = []
        while len(self._workers) + len(fresh) < SIZE:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            fresh.append((process, ours))
        for process, pipe in fresh:
            if not pipe.poll(START_SECONDS) or pipe.recv() != "ready":
                process.kill()
                raise RankError("a rank of the pool did not start")
        self._workers += fresh

    def run(self, target: str, ranks: int, tp: int = 1, timeout: float = 60.0, **arguments: Any) -> list[Any]:
        """Call `module:function(mesh, **arguments)` on `ranks` ranks.

        Raises:
            RankError: with the traceback of the first rank that failed, or the deadline that passed.
        """
        self._start()
        folder = tempfile.mkdtemp(prefix="looksay-pool-")
        chosen = self._workers[:ranks]
        try:
            for rank, (_, pipe) in enumerate(chosen):
                pipe.send((target, rank, ranks, tp, f"{folder}/store", timeout, arguments))
            return self._collect(chosen, target, timeout)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _collect(self, chosen: list[tuple[Any, Connection]], target: str, timeout: float) -> list[Any]:
        results: dict[int, Any] = {}
        deadline = time.monotonic() + timeout
        problem = None
        while len(results) < len(chosen) and problem is None:
            waiting = [pipe for rank, (_, pipe) in enumerate(chosen) if rank not in results]
            ready = multiprocessing.connection.wait(waiting, max(0.0, deadline - time.monotonic()))
            if not ready:
                missing = [rank for rank in range(len(chosen)) if rank not in results]
                problem = f"{target}: ranks {missing} gave no answer in {timeout:.0f} s: a hang (lockstep broken?)"
            for rank, (_, pipe) in enumerate(chosen):
                if pipe not in ready:
                    continue
                try:
                    kind, value = pipe.recv()
                except (EOFError, OSError):
                    problem = problem or f"{target}: rank {rank} died"
                    continue
                if kind == "error":
                    problem = problem or f"{target}: rank {rank} failed:\n{value}"
                results[rank] = value
        if problem is not None:
            self._replace(chosen)
            raise RankError(problem)
        return [results[rank] for rank in range(len(chosen))]

    def _replace(self, chosen: list[tuple[Any, Connection]]) -> None:
        for process, pipe in chosen:
            process.kill()
            process.join()
            pipe.close()
        self._workers = [worker for worker in self._workers if worker not in chosen]

    def close(self) -> None:
        for process, _ in self._workers:
            process.kill()
        self._workers = []
