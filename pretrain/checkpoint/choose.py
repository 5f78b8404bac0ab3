"""The newest whole checkpoint of a run. A damaged one is named and passed over."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from data_pipeline import storage
from pretrain.agree import from_first, gathered
from pretrain.checkpoint.files import FILES, sha256_of
from pretrain.checkpoint.head import Entry, Head, Heads, check_schema
from pretrain.mesh import Mesh
from pretrain.run_folder import checkpoints_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """A checkpoint: its step, its folder, and that of its frozen parameters."""

    step: int
    folder: str
    frozen: str | None = None


def chosen(root: str, entry: Entry) -> Chosen:
    frozen = storage.join(root, entry.frozen) if entry.frozen else None
    return Chosen(entry.step, storage.join(root, entry.folder), frozen)


def problem_of(root: str, head: Head, entry: Entry, share: tuple[int, int] = (0, 1)) -> str | None:
    """What is wrong with a committed checkpoint, None where every file (the frozen ones too) has its hash.

    Args:
        share: (n, of): this process looks at every file whose number is n modulo `of`.
    """
    problem = _problem_in(storage.join(root, entry.folder), entry.sha256, share)
    if problem or entry.frozen is None:
        return problem
    if head.frozen is None or head.frozen[0] != entry.frozen:
        return f"frozen parameters: the head does not know {entry.frozen}"
    problem = _problem_in(storage.join(root, entry.frozen), head.frozen[1], share)
    return f"frozen parameters: {problem}" if problem else None


def _problem_in(folder: str, sha256: str, share: tuple[int, int]) -> str | None:
    path = storage.join(folder, FILES)
    try:
        data = storage.read_bytes(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            return f"{FILES} does not have its hash"
        listed: dict[str, dict[str, Any]] = json.loads(data)["files"]
        check_schema(json.loads(data), path)
    except UserError as error:
        return str(error)
    except (OSError, ValueError, KeyError) as error:
        return f"{FILES} is missing" if isinstance(error, FileNotFoundError) else f"{FILES} cannot be read ({error})"
    if any("/" in name or name.startswith(".") for name in listed):
        return f"{FILES} names a file elsewhere"
    extra = {name for name in storage.listdir(folder) if name.endswith(".safetensors")} - listed.keys()
    if extra:
        return f"{min(extra)} does not belong to it"
    for number, (name, wanted) in enumerate(sorted(listed.items())):
        if number % share[1] == share[0] % share[1] and (problem := _problem_with(folder, name, wanted)):
            return problem
    return None


def _problem_with(folder: str, name: str, wanted: dict[str, Any]) -> str | None:
    path = storage.join(folder, name)
    try:
        size = storage.size_of(path)
        if size != wanted["bytes"]:
            return f"{name} has {size} of {wanted['bytes']} bytes"
        if sha256_of(path) != wanted["sha256"]:
            return f"{name} does not have its hash"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error})"
    return None


def latest(run: str | Path) -> Chosen | None:
    """The newest complete checkpoint of a run, looked at by this process alone; a damaged one is named."""
    root = checkpoints_of(run)
    head = Heads(root).read()
    for entry in sorted(head.entries, key=lambda entry: entry.step, reverse=True):
        problem = problem_of(root, head, entry)
        if problem is None:
            return chosen(root, entry)
        log.warning("checkpoint %s is damaged (%s): passed over", storage.join(root, entry.folder), problem)
    return None


def newest_shared(run: str | Path, mesh: Mesh) -> Chosen | None:
    """`latest`, with all ranks sharing the looking. A collective."""
    root = str(from_first(mesh, checkpoints_of(run) if mesh.is_first else None))
    head = Heads(root).read()
    for step in reversed(from_first(mesh, head.steps)):
        entry = head.entry(step)
        problem: str | None = "this rank does not see it: is the folder shared between nodes?"
        if entry is not None:
            problem = problem_of(root, head, entry, (mesh.rank, mesh.world))
        found = next((text for text in gathered(mesh, problem) if text), None)
        if found is None and entry is not None:
            return chosen(root, entry)
        place = storage.join(root, entry.folder if entry else f"step-{step:08d}")
        if mesh.is_first:
            log.warning("checkpoint %s is damaged (%s): passed over", place, found)
    return None


def find(spec: str) -> Chosen:
    """The checkpoint that RUN or RUN@STEP names.

    Raises:
        UserError: no such run, or no complete checkpoint there.
    """
    name, _, step = spec.partition("@")
    if not Path(name).is_dir():
        raise UserError(f"run {name} does not exist: give the folder of a finished or running `looksay train`")
    root = checkpoints_of(name)
    head = Heads(root).read()
    if step:
        entry = head.entry(int(step)) if step.isdigit() else None
        if entry is None:
            raise UserError(f"{name} has no checkpoint of step {step}: it has {head.steps or 'none'}")
        problem = problem_of(root, head, entry)
        if problem:
            raise UserError(
                f"checkpoint {storage.join(root, entry.folder)} is damaged ({problem}): use another of {head.steps}"
            )
        return chosen(root, entry)
    newest = latest(name)
    if newest is None:
        raise UserError(f"{name} has no complete checkpoint: let `looksay train` reach its first one")
    return newest


def folder_of(run: str | Path, step: int) -> Path:
    """Where a committed checkpoint of a local run lies (it is not looked into)."""
    root = checkpoints_of(run)
    entry = Heads(root).read().entry(step)
    if entry is None:
        raise UserError(f"{run} has no checkpoint of step {step}: it has {Heads(root).read().steps or 'none'}")
    return Path(root) / entry.folder
