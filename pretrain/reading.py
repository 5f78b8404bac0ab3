"""Batches on every rank of the mesh: within a TP group one rank reads and decodes, the others receive.

The planner's process, where the recipe has one, is started by the first rank of each node; all others are told its
address. What goes wrong on a reading rank is raised on all ranks of its group: nobody waits for a batch that never comes.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from configs.errors import RunError, UserError
from configs.schema import TrainRecipe
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.loader import Loader, plans_apart
from data_pipeline.stream.making import Features
from data_pipeline.stream.prefetch.transport import pack, unpack, write
from data_pipeline.stream.service.client import PlanClient, PlanProcess
from data_pipeline.stream.service.source import PlanSource
from pretrain.mesh import Mesh

ADDRESS_BYTES = 512


class GroupLoader:
    """A Loader for each TP group. Every method but `ids_hash` is called by all ranks of a group together.

    Args:
        plan_log: of the run; the first rank's planner appends to it.

    Raises:
        UserError, RunError: as Loader, on every rank of the group.
    """

    def __init__(self, recipe: TrainRecipe, mesh: Mesh, features: Features | None, plan_log: str):
        self.mesh = mesh
        self.chat = Chat(recipe.data.tokenizer, recipe.data.template)
        self.loader: Loader | None = None
        self._process: PlanProcess | None = None
        plan = self._plan(recipe, plan_log)
        reads = mesh.tp_rank == 0

        def opened() -> None:
            self.loader = Loader(
                recipe,
                dp_rank=mesh.dp_rank,
                dp_size=mesh.dp_size,
                local_ranks=max(1, mesh.local_world // mesh.tp_size),
                features=features,
                plan=plan if reads else None,
                plan_log=plan_log if mesh.is_first else None,
            )

        self._together(opened if reads else None)
        rows = recipe.data.packing.rows_per_step
        self.micro_steps = -(-rows // (mesh.dp_size * recipe.parallel.rows_per_rank))

    # ---- batches -------------------------------------------------------------------------------------------

    def step(self, step: int) -> list[Batch]:
        """The batches of a step: the same objects on all ranks of a TP group. Raises as `Loader.step`."""
        if self.mesh.tp_size == 1:
            assert self.loader is not None
            return self.loader.step(step)
        batches: list[Batch] = []

        def read() -> None:
            assert self.loader is not None
            batches.extend(self.loader.step(step))

        self._together(read if self.loader is not None else None)
        return [self._shared(batches[n] if batches else None) for n in range(self.micro_steps)]

    def _shared(self, batch: Batch | None) -> Batch:
        """A batch of the reading rank, on all ranks of the group."""
        if batch is not None:
            header, arrays, size = pack(batch)
            memory = np.empty(size, np.uint8)
            write(header, arrays, memory.data)
            self._broadcast(np.frombuffer(json.dumps(header).encode(), np.uint8))
            self._broadcast(memory)
            return batch
        header = json.loads(self._broadcast(None).tobytes())
        return unpack(header, self._broadcast(None))

    def _broadcast(self, data: np.ndarray | None) -> np.ndarray:
        """Bytes of the reading rank, on all ranks of the group."""
        device, group = self.mesh.device, self.mesh.tp_group
        source = self.mesh.rank - self.mesh.tp_rank
        size = torch.tensor([0 if data is None else len(data)], device=device)
        dist.broadcast(size, source, group)
        if data is None:
            tensor = torch.empty(int(size), dtype=torch.uint8, device=device)
        else:
            tensor = torch.from_numpy(np.require(data, requirements="W")).to(device)
        dist.broadcast(tensor, source, group)
        return tensor.numpy(force=True)

    def _together(self, work: Callable[[], None] | None) -> None:
        """Do `work` on the reading rank; what it raises is raised on all ranks of the group."""
        failed: BaseException | None = None
        if work is not None:
            try:
                work()
            except Exception as error:
                failed = error
        if self.mesh.tp_size == 1:
            if failed is not None:
                raise failed
            return
        said = {"error": str(failed), "kind": type(failed).__name__} if failed is not None else {}
        mine = None if work is None else np.frombuffer(json.dumps(said).encode(), np.uint8)
        heard = json.loads(self._broadcast(mine).tobytes())
        if failed is not None:
            raise failed
        if heard:
            raise (UserError if heard["kind"] == "UserError" else RunError)(heard["error"])

    # ---- the planner's process -----------------------------------------------------------------------------

    def _plan(self, recipe: TrainRecipe, log: str) -> PlanSource | None:
        """This rank's connection to its node's planner; None where each reading rank plans by itself."""
        if not plans_apart(recipe):
            return None
        mesh = self.mesh
        said: dict[str, Any] = {"node": mesh.node}
        if mesh.local_rank == 0:
            try:
                self._process = PlanProcess(recipe, log, write=mesh.is_first)
                said |= {"address": self._process.address, "fingerprint": self._process.fingerprint}
            except (UserError, RunError) as error:
                said |= {"error": str(error), "kind": type(error).__name__}
        first = next(entry for entry in self._gathered(said) if entry["node"] == mesh.node and len(entry) > 1)
        if "error" in first:
            raise (UserError if first["kind"] == "UserError" else RunError)(first["error"])
        if self._process is not None and mesh.tp_rank == 0:
            return self._process.client()
        return PlanClient(first["address"], first["fingerprint"]) if mesh.tp_rank == 0 else None

    def _gathered(self, said: dict[str, Any]) -> list[dict[str, Any]]:
        """What every rank of the job says, in JSON of at most ADDRESS_BYTES (a longer error is cut)."""
        if self.mesh.world == 1:
            return [said]
        text = json.dumps({name: value[:200] if isinstance(value, str) else value for name, value in said.items()})
        mine = torch.zeros(ADDRESS_BYTES, dtype=torch.uint8)
        raw = text.encode()[:ADDRESS_BYTES]
        mine[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        mine = mine.to(self.mesh.device)
        everyone = [torch.empty_like(mine) for _ in range(self.mesh.world)]
        dist.all_gather(everyone, mine)
        return [json.loads(bytes(part.tolist()).rstrip(b"\0")) for part in everyone]

    # ---- state ---------------------------------------------------------------------------------------------

    def state_dict(self, step: int) -> dict[str, Any]:
        """As `Loader.state_dict`; empty on a rank that does not read."""
        return {} if self.loader is None else self.loader.state_dict(step)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Loader.load_state_dict`."""
        loader = self.loader
        self._together(None if loader is None else lambda: loader.load_state_dict(state))

    def ids_hash(self, step: int) -> str:
        """As `Loader.ids_hash`, on a rank that reads."""
        assert self.loader is not None, "this rank does not read"
        return self.loader.ids_hash(step)

    def close(self) -> None:
        """End workers, and the planner's process where it is ours."""
        if self.loader is not None:
            self.loader.close()
        if self._process is not None:
            self._process.close()
