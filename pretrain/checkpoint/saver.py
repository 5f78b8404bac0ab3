"""One checkpoint in flight: copied in the shadow of the next step, written and committed by a thread.

Each rank writes its own file and, when it is whole, a note of its hash. The first rank waits for all notes, lists
them in files.json and puts the next head: from then on the checkpoint exists. No collective runs in here: ranks meet at
the files, so a rank that dies leaves nobody waiting for longer than COMMIT_SECONDS, and nothing half-written is named.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from configs.errors import RunError
from configs.training import CheckpointConfig
from data_pipeline import storage
from pretrain.checkpoint import files
from pretrain.checkpoint.copying import Live, Staging, parts_of
from pretrain.checkpoint.files import FILES, LEDGER, STATE, Part
from pretrain.checkpoint.head import SCHEMA, Entry, Head, Heads, kept
from pretrain.checkpoint.leftovers import leftovers_of
from pretrain.checkpoint.pausing import pause_at
from pretrain.mesh import Mesh

COMMIT_SECONDS = 1800.0
SIGN_SECONDS = 1.0
LOOK_SECONDS = (0.005, 0.5)
"""How long the first rank waits between two looks at the notes: from, to."""


@dataclass
class Job:
    """A checkpoint on its way. `done` is set when this rank's part of it is over, well or not."""

    step: int
    folder: str
    state: dict[str, Any]
    ledger: bytes
    frozen: list[Live] | None
    """What this rank holds of the frozen parameters (it may be nothing); None where they are not to be written."""
    score: float | None
    begun: float = field(default_factory=time.perf_counter)
    done: threading.Event = field(default_factory=threading.Event)
    abandoned: threading.Event = field(default_factory=threading.Event)
    failed: Exception | None = None


class Saver:
    """Writes checkpoints of one start of a run on this rank.

    Args:
        heads, head: the chain and this start's own version of it.
        say: gets a sentence when a checkpoint is committed (on the first rank).
    """

    def __init__(self, heads: Heads, head: Head, mesh: Mesh, config: CheckpointConfig, say: Callable[[str], None]):
        self.heads, self.generation, self.mesh, self.config, self.say = heads, head.generation, mesh, config, say
        self.frozen = head.frozen[0] if head.frozen else None
        self.waiting: Callable[[int], None] = lambda seconds: None
        """Told every second that training stands still for a checkpoint: it does not hang."""
        self._staging = Staging()
        self._job: Job | None = None
        self.committed: list[tuple[int, float]] = []
        """(step, seconds from the order to the commit) of what this start committed; on the first rank."""

    # ---- on the training thread ------------------------------------------------------------------------------

    def begin(
        self,
        step: int,
        live: list[Live],
        frozen: list[Live] | None,
        state: dict[str, Any],
        ledger: bytes,
        score: float | None = None,
    ) -> float:
        """Order a checkpoint. Returns the seconds that the one before was still waited for.

        Args:
            live: what this rank holds of the trained parameters. Nothing may change it until `copied` returned.
            frozen: of the frozen ones, written with the run's first checkpoint only; None where the model has none. All ranks
                give a list, or none does: the first rank waits for each one's file.
        """
        waited = self.wait()
        folder = f"step-{step:08d}.g{self.generation:08d}"
        state = {"schema": SCHEMA, "step": step, "generation": self.generation, **state}
        job = Job(step, folder, state, ledger, None if self.frozen else frozen, score)
        if self.frozen is None and frozen is not None:
            self.frozen = f"frozen.g{self.generation:08d}"
        job.state["frozen"] = self.frozen
        self._staging.begin(live)
        self._job = job
        threading.Thread(target=self._run, args=(job,), name="checkpoint-write", daemon=True).start()
        return waited

    def copied(self) -> float:
        """Wait until live tensors may change again. Returns the seconds that were waited."""
        return self._staging.wait()

    def wait(self) -> float:
        """Until this rank's part of the checkpoint in flight is over. Returns the seconds that were waited."""
        begun = time.perf_counter()
        while self._job is not None and not self._job.done.wait(SIGN_SECONDS):
            self.waiting(round(time.perf_counter() - begun))
        return time.perf_counter() - begun

    @property
    def busy(self) -> bool:
        return self._job is not None and not self._job.done.is_set()

    @property
    def whole(self) -> bool:
        """Whether the newest checkpoint went well on this rank and was not given up."""
        return self._job is None or not self._job.abandoned.is_set()

    def take_failure(self) -> Exception | None:
        """What went wrong since this was asked last, if anything did."""
        job = self._job
        if job is None or not job.done.is_set():
            return None
        failed, job.failed = job.failed, None
        return None if job.abandoned.is_set() else failed  # of one that was given up all know already

    def abandon(self) -> None:
        """Another rank could not write its part: nobody waits for it."""
        if self._job is not None:
            self._job.abandoned.set()

    # ---- in the background -----------------------------------------------------------------------------------

    def _run(self, job: Job) -> None:
        try:
            self._write(job)
            if self.mesh.is_first:
                self._commit(job)
        except Exception as error:  # the training thread asks for it
            job.failed = error
        finally:
            job.done.set()

    def _write(self, job: Job) -> None:
        self._at("copy", job)
        if job.frozen is not None:
            views = {(kind, name): view for kind, name, _, view in job.frozen}
            self._write_file(
                str(self.frozen), parts_of(job.frozen), lambda part: _host_bytes(views[part.kind, part.name])
            )
        self._staging.wait()
        self._at("save", job)
        self._write_file(job.folder, self._staging.parts, self._staging.data)
        self._at("pieces", job)

    def _at(self, moment: str, job: Job) -> None:
        for name in (moment, f"{moment}:{job.step}"):
            pause_at(name, self.mesh.rank)

    def _write_file(self, folder: str, parts: list[Part], data: Callable[[Part], memoryview]) -> None:
        place = storage.join(self.heads.root, folder)
        name = f"rank-{self.mesh.rank:05d}"
        sha, size = files.write(storage.join(place, f"{name}.safetensors"), parts, data)
        storage.put(storage.join(place, f"{name}.note"), json.dumps({"sha256": sha, "bytes": size}).encode())

    def _commit(self, job: Job) -> None:
        place = storage.join(self.heads.root, job.folder)
        frozen = self._list_files(str(self.frozen), job, {}) if job.frozen is not None else None
        own = {STATE: json.dumps(job.state, indent=1).encode(), LEDGER: job.ledger}
        for name, data in own.items():
            storage.put(storage.join(place, name), data)
        self._at("commit", job)
        sha = self._list_files(job.folder, job, own)
        self._at("head", job)
        entry = Entry(job.step, self.generation, job.folder, sha, time.time(), self.frozen, job.score)
        before: list[Head] = []

        def add(head: Head) -> Head:
            before.append(head)
            # A later step of an older start is not part of this history any more: it has been left.
            entries = [old for old in head.entries if old.step < job.step] + [entry]
            made = replace(head, entries=kept(entries, **self._keeping()))
            return replace(made, frozen=(str(self.frozen), frozen)) if frozen and self.frozen else made

        head = self.heads.change(self.generation, add)
        self.committed.append((job.step, time.perf_counter() - job.begun))
        self.say(f"checkpoint of step {job.step} committed, {self.committed[-1][1]:.2f} s after the step")
        gone = {old.folder for old in before[-1].entries} - {old.folder for old in head.entries}
        if len(self.committed) == 1:
            gone |= set(leftovers_of(self.heads.root, head))
        for folder in sorted(gone):
            storage.remove_tree(storage.join(self.heads.root, folder))

    def _keeping(self) -> dict[str, Any]:
        config = self.config
        return {"keep_last": config.keep_last, "keep_every": config.keep_every, "keep_best": config.keep_best}

    def _list_files(self, folder: str, job: Job, own: dict[str, bytes]) -> str:
        """Wait for every rank's note, then put files.json. Returns its SHA-256."""
        place = storage.join(self.heads.root, folder)
        listed: dict[str, dict[str, Any]] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in own.items()
        }
        for rank, note in enumerate(self._notes(place, job)):
            listed[f"rank-{rank:05d}.safetensors"] = note
        data = json.dumps({"schema": SCHEMA, "step": job.step, "files": listed}, indent=1).encode()
        storage.put(storage.join(place, FILES), data)
        for rank in range(self.mesh.world):
            storage.remove(storage.join(place, f"rank-{rank:05d}.note"))
        return hashlib.sha256(data).hexdigest()

    def _notes(self, place: str, job: Job) -> list[dict[str, Any]]:
        wanted = [f"rank-{rank:05d}.note" for rank in range(self.mesh.world)]
        pause, end = LOOK_SECONDS[0], time.monotonic() + COMMIT_SECONDS
        while missing := set(wanted) - set(storage.listdir(place)):
            if job.abandoned.is_set():
                raise RunError(f"{place} was given up: another rank could not write its part")
            if time.monotonic() > end:
                raise RunError(
                    f"{place} was given up: {sorted(missing)[0]} and {len(missing) - 1} more did not come in {COMMIT_SECONDS:.0f} s"
                )
            job.abandoned.wait(pause)
            pause = min(2 * pause, LOOK_SECONDS[1])
        return [json.loads(storage.read_bytes(storage.join(place, name))) for name in wanted]


def _host_bytes(view: Tensor) -> memoryview:
    return memoryview(view.detach().cpu().contiguous().view(torch.uint8).numpy())
