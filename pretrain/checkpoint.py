"""Checkpoints that know nothing of the topology that wrote them (docs/design/order-and-resume.md).

    RUN/checkpoints/step-00000100/
        rank-00000.safetensors   this rank's flat pieces, `kind/logical.name`
        rank-00000.json          index of the pieces: logical shape, TP slice, flat range in it, dtype
        state.json               step, data state, topology, versions, kernels
        COMMIT                   written last: SHA-256 of every file; without it the checkpoint does not exist
    RUN/checkpoints/frozen/      pieces of frozen parameters, once a run

Any topology assembles any other's pieces (pretrain/restore.py). No pickle. The same topology resumes bitwise.
"""

import errno
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from configs.errors import UserError
from data_pipeline.storage import put, put_file
from pretrain.engine import KINDS, Engine
from pretrain.mesh import Mesh
from pretrain.model.linear import logical_of
from pretrain.run_folder import steps_of

log = logging.getLogger(__name__)
SCHEMA = 1


def step_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def save(run: Path, step: int, engine: Engine, mesh: Mesh, state: dict[str, Any], keep_last: int) -> Path:
    """Write a whole checkpoint; all ranks call it. Returns its folder.

    Raises:
        RunError: no space is left; the unfinished checkpoint is not committed and the ones before stand.
    """
    folder = step_folder(run, step)
    _save_frozen(run, engine, mesh)
    if mesh.is_first and folder.exists():
        shutil.rmtree(folder)  # an uncommitted leftover, or the same step trained again
    _barrier(mesh)
    _write_pieces(folder, engine, mesh, trained=True)
    if mesh.is_first:
        put(str(folder / "state.json"), json.dumps({"schema": SCHEMA, "step": step, **state}, indent=1).encode())
    _barrier(mesh)
    if mesh.is_first:
        _commit(folder)
        prune(run, keep_last)
    _barrier(mesh)
    return folder


def _barrier(mesh: Mesh) -> None:
    if mesh.world > 1:
        dist.barrier()


def _save_frozen(run: Path, engine: Engine, mesh: Mesh) -> None:
    folder = run / "checkpoints" / "frozen"
    if all(p.requires_grad for p in engine.module.parameters()) or (folder / "COMMIT").exists():
        return
    _barrier(mesh)
    if mesh.is_first and folder.exists():
        shutil.rmtree(folder)  # an uncommitted leftover, perhaps of more ranks
    _barrier(mesh)
    _write_pieces(folder, engine, mesh, trained=False)
    _barrier(mesh)
    if mesh.is_first:
        _commit(folder)


def _write_pieces(folder: Path, engine: Engine, mesh: Mesh, trained: bool) -> None:
    """This rank's tensors and their index."""
    mine = {id(piece.parameter): piece for piece in engine.pieces()}
    tensors: dict[str, Tensor] = {}
    index = []
    for parameter in engine.module.parameters():
        if parameter.requires_grad != trained:
            continue
        logical, piece = logical_of(parameter), mine.get(id(parameter))
        for kind in KINDS if trained else KINDS[:1]:
            value = engine.get(parameter, kind)  # asked for on every rank: below stage 3 it is a collective
            if piece is None:
                continue
            count = piece.stop - piece.start
            value = value[:count] if engine.zero == 3 else value[piece.start : piece.stop]
            name = f"{kind}/{logical.name}"
            tensors[name] = value.float().cpu().clone()
            size = None if logical.axis is None else logical.shape[logical.axis] // mesh.tp_size
            index.append(
                {
                    "name": logical.name,
                    "kind": kind,
                    "shape": list(logical.shape),
                    "axis": logical.axis,
                    "offset": logical.offset,
                    "size": size,
                    "start": piece.start,
                    "stop": piece.stop,
                    "dtype": "float32",
                }
            )
    path = folder / f"rank-{mesh.rank:05d}.safetensors"
    put_file(str(path), lambda target: _save_tensors(tensors, target))
    put(str(path.with_suffix(".json")), json.dumps({"pieces": index, "sha256": _sha256(path)}).encode())


def _save_tensors(tensors: dict[str, Tensor], target: str) -> None:
    """safetensors hides the system's error in one of its own."""
    try:
        save_file(tensors, target)
    except SafetensorError as error:
        if "os error 28" in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _commit(folder: Path) -> None:
    hashes = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            hashes[path.name] = json.loads(path.with_suffix(".json").read_bytes())["sha256"]
        else:
            hashes[path.name] = _sha256(path)
    put(str(folder / "COMMIT"), json.dumps(hashes, indent=1).encode())


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` committed checkpoints."""
    for step in steps_of(run)[:-keep_last]:
        shutil.rmtree(step_folder(run, step))


def problem_of(folder: Path) -> str | None:
    """What is wrong with a committed checkpoint, None where every file (the run's frozen ones too) has its hash."""
    frozen = folder.parent / "frozen"
    problem = _problem_in(frozen) if frozen.exists() else None
    return f"frozen parameters: {problem}" if problem else _problem_in(folder)


def _problem_in(folder: Path) -> str | None:
    try:
        hashes = json.loads((folder / "COMMIT").read_bytes())
    except (OSError, ValueError) as error:
        return f"COMMIT cannot be read ({error})"
    for name, wanted in hashes.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if _sha256(path) != wanted:
            return f"{name} does not have its hash"
    return None


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint; a damaged one is named and passed over."""
    for step in reversed(steps_of(run)):
        folder = step_folder(run, step)
        problem = problem_of(folder)
        if problem is None:
            return folder
        log.warning("checkpoint %s is damaged (%s): passed over", folder, problem)
    return None


def find(spec: str) -> Path:
    """The checkpoint folder that RUN or RUN@STEP names.

    Raises:
        UserError: no such run, or no complete checkpoint there.
    """
    name, _, step = spec.partition("@")
    run = Path(name)
    if not run.is_dir():
        raise UserError(f"run {name} does not exist: give the folder of a finished or running `looksay train`")
    steps = steps_of(run)
    if step:
        if not step.isdigit() or int(step) not in steps:
            raise UserError(f"{name} has no checkpoint of step {step}: it has {steps or 'none'}")
        folder = step_folder(run, int(step))
        problem = problem_of(folder)
        if problem:
            raise UserError(f"checkpoint {folder} is damaged ({problem}): use another of {steps}")
        return folder
    newest = latest(run)
    if newest is None:
        raise UserError(f"{name} has no complete checkpoint: let `looksay train` reach its first one")
    return newest
