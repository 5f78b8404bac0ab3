"""What the pool's ranks run for tests of this folder: trainings in which something goes wrong inside a rank's memory."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pretrain.passes
from configs.errors import RunError
from pretrain.audit import Audit, Corrupted
from pretrain.checkpoint import saver
from pretrain.engine import KINDS, Engine
from pretrain.mesh import Mesh
from pretrain.model.linear import logical_of
from pretrain.running import train
from tests.pretrain.training_cases import learn, make_engine, small_recipe

NAME = "decoder.layers.1.norm1.weight"


def flip(tensor: torch.Tensor, bit: int = 3) -> None:
    """Flip a bit of a tensor's first element."""
    flat = tensor.detach().view(-1)[:1]
    words = flat.view({2: torch.int16, 4: torch.int32}[flat.element_size()])
    words ^= 1 << bit


def audited(mesh: Mesh, zero: int, where: str) -> str | None:
    """What an audit says of a step in which a bit of NAME flips `where` on the last rank."""
    engine, batches = make_engine(mesh, zero, precision="bf16")
    learn(engine, batches)
    learn(engine, batches)
    audit = Audit(engine, mesh, lambda text: None)
    (parameter,) = (p for p in engine.module.parameters() if logical_of(p).name == NAME)
    last = mesh.rank == mesh.world - 1

    def spoil(kind: str) -> None:
        held = engine.wanted(parameter, KINDS)
        if last and kind == "weight":
            flip(engine.visible(parameter))
        if last and kind == "master" and held:
            flip(held[0].views["master"], bit=20)

    try:
        if where in ("weight", "master"):
            spoil(where)
        audit.before(3)
        learn(engine, batches)
        if where == "step":
            spoil("master")
        audit.again(3, lambda: learn(engine, batches))
    except Corrupted as error:
        return str(error)
    return None


def same_after_audit(mesh: Mesh, zero: int) -> bool:
    """Whether an audited step leaves the bits that an unaudited one leaves."""
    found = []
    for audit_it in (False, True):
        engine, batches = make_engine(mesh, zero, precision="bf16")
        for step in range(1, 5):
            audit = Audit(engine, mesh, lambda text: None)
            if audit_it and step in (2, 4):
                audit.before(step)
            learn(engine, batches)
            if audit_it and step in (2, 4):
                audit.again(step, lambda: learn(engine, batches))  # noqa: B023
        views = [
            v.clone() for p in engine.module.parameters() for h in engine.wanted(p, KINDS) for v in h.views.values()
        ]
        found.append(views)
    return all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def spoiled(mesh: Mesh, world: str, run: str, parts: dict[str, Any], step: int, times: int) -> int:
    """Train; in step `step` the loss is not finite, the first `times` that it is reached. Returns updates made."""
    seen: list[int] = []
    whole = Engine.backward

    def backward(self: Engine, loss: torch.Tensor) -> None:
        broken = current[0] == step and len(seen) < times
        if broken:
            seen.append(step)
        whole(self, loss * float("nan") if broken else loss)

    current = [0]
    over = pretrain.passes.Passes._over

    def noting(self: Any, *arguments: Any) -> Any:
        current[0] = self.step
        return over(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "backward", backward)
        patch.setattr(pretrain.passes.Passes, "_over", noting)
        assert train(small_recipe(world, **parts), Path(run), mesh)
    return len(seen)


def refused_writes(mesh: Mesh, world: str, run: str, parts: dict[str, Any], times: int) -> dict[str, Any]:
    """Train; on the last rank the first `times` checkpoints fail, a moment after the next one is due."""
    whole, left = saver.files.write, [times]

    def write(path: str, *arguments: Any) -> tuple[str, int]:
        if mesh.rank == mesh.world - 1 and left[0] > 0 and "step-" in path:
            left[0] -= 1
            time.sleep(0.5)
            raise RunError(f"no space is left for {path}")
        return whole(path, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver.files, "write", write)
        try:
            train(small_recipe(world, **parts), Path(run), mesh)
        except RunError as error:
            return {"code": getattr(error, "exit_code", None), "said": str(error)}
    return {"code": 0, "said": ""}
