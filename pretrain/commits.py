"""A run's checkpoints as its trainer sees them: taken up, ordered, agreed on. What they are is in pretrain/checkpoint."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.errors import NO_REQUEUE, RunError
from configs.training import CheckpointConfig
from data_pipeline import storage
from pretrain.agree import from_first, gathered
from pretrain.checkpoint import choose
from pretrain.checkpoint.copying import Live
from pretrain.checkpoint.files import LEDGER
from pretrain.checkpoint.head import Fenced, Head, Heads
from pretrain.checkpoint.ledger import Ledger
from pretrain.checkpoint.reading import Checkpoint, span_of
from pretrain.checkpoint.saver import Saver
from pretrain.engine import KINDS, Engine
from pretrain.mesh import Mesh
from pretrain.model.linear import logical_of
from pretrain.run_folder import checkpoints_of, place_checkpoints

log = logging.getLogger(__name__)
FAILURES = 3
"""Checkpoints in a row that could not be written end the run; a full disk or a lost store may be mended before."""
POLL_SECONDS = 0.2
RESTARTS = 3
"""By a scheduler, without a newer checkpoint."""


class Commits:
    """Checkpoints of one start of a run; every rank makes one and calls everything equally often.

    Making it takes the run: from then on what an older start commits is refused.
    """

    def __init__(self, config: CheckpointConfig, run: Path, mesh: Mesh, say: Callable[[str], None]):
        self._run, self.mesh, self.say = run, mesh, say
        if mesh.is_first:
            place_checkpoints(run, config.folder)
        self.root = str(from_first(mesh, checkpoints_of(run) if mesh.is_first else None))
        self.heads = Heads(self.root)
        claimed = self.heads.claim() if mesh.is_first else None
        generation = from_first(mesh, claimed.generation if claimed else None)
        self.head: Head = claimed or self.heads.read()
        if int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0) and self.head.starts_in_vain() > RESTARTS + 1:
            # Somebody who starts it by hand has a reason; a scheduler would go on for ever.
            vain = RunError(
                f"{run} was started {self.head.starts_in_vain()} times without reaching a newer checkpoint than step "
                f"{max(self.head.steps, default=0)}: look at its logs; it is not queued again"
            )
            vain.exit_code = NO_REQUEUE  # type: ignore[attr-defined]
            raise vain
        self.generation = int(generation)
        self.saver = Saver(self.heads, self.head, mesh, config, say)
        self.saver.generation = self.generation
        self.ledger = Ledger()
        self.stall = 0.0
        """Seconds that training stood still for checkpoints since this was last taken."""
        self._failures = 0

    # ---- taking up -------------------------------------------------------------------------------------------

    def newest(self) -> choose.Chosen | None:
        """The newest whole checkpoint of the run; ranks share the looking. A damaged one is named and passed over."""
        return choose.newest_shared(self._run, self.mesh)

    def take_ledger(self, checkpoint: Checkpoint) -> None:
        """Go on with a checkpoint's ledger."""
        self.ledger = Ledger(storage.read_bytes(storage.join(checkpoint.folder, LEDGER)))

    # ---- ordering --------------------------------------------------------------------------------------------

    def order(self, step: int, engine: Engine, state: dict[str, Any], score: float | None = None) -> None:
        """Order the checkpoint of a step; it is committed in the background. A collective: the one before is over first.

        Raises:
            Fenced, RunError: as `judge`.
        """
        begun = time.perf_counter()
        if not self._over(begun):
            self.judge(1.0, 0.0)
        live, frozen = live_views(engine, self.mesh)
        self.saver.begin(step, live, frozen, state, self.ledger.to_bytes(), score)
        self.stall += time.perf_counter() - begun

    def before_update(self) -> None:
        """Before anything changes weights: the copy must be whole."""
        self.stall += self.saver.copied()

    def flags(self) -> tuple[float, float]:
        """(this rank could not write, this start was fenced off), to be summed over ranks and given to `judge`."""
        failed = self.saver.take_failure()
        if failed is None:
            return 0.0, 0.0
        if isinstance(failed, Fenced):
            log.error("%s", failed)
            return 0.0, 1.0
        if not isinstance(failed, RunError | OSError):
            log.error("checkpoint: %r", failed)
        print(f"rank {self.mesh.rank}: the checkpoint could not be written: {failed}", flush=True)
        return 1.0, 0.0

    def judge(self, failed: float, fenced: float) -> None:
        """What all ranks conclude from the sums of `flags`.

        Raises:
            Fenced: a newer start has taken the run over.
            RunError: checkpoints fail again and again.
        """
        if fenced:
            head = self.heads.read()
            raise Fenced(
                f"{self.root}: start {head.generation} of this run has taken over from start {self.generation}"
            )
        if failed:
            self.saver.abandon()
            self._failures += 1
            if self._failures >= FAILURES:
                error = RunError(
                    f"{self._failures} checkpoints in a row could not be written to {self.root}: see above"
                )
                error.exit_code = NO_REQUEUE  # type: ignore[attr-defined]
                raise error
            self.say(f"a checkpoint failed ({self._failures} in a row end the run at {FAILURES}): training goes on")

    def settle(self) -> None:
        """Wait until the checkpoint in flight is committed. A collective.

        Raises:
            RunError: it could not be written, or this start was fenced off.
        """
        begun = time.perf_counter()
        if not self._over(begun):
            self.saver.abandon()
            raise RunError(f"the checkpoint could not be written to {self.root}: the ones before it stand")
        self.stall += time.perf_counter() - begun

    def _over(self, begun: float) -> bool:
        """Wait until no rank is busy with the checkpoint in flight; whether it is well. All ranks conclude the same.

        They look together, again and again: a rank that waited alone for another's file would wait for what never comes.
        """
        while True:
            failed, fenced = self.flags()
            said = gathered(self.mesh, [failed, fenced, self.saver.busy])
            if any(fenced for _, fenced, _ in said):
                self.judge(0.0, 1.0)
            if any(failed for failed, _, _ in said):
                return False
            if not any(busy for *_, busy in said):
                self._failures = 0 if self.saver.whole else self._failures
                return True
            waited = time.perf_counter() - begun
            self.saver.waiting(round(waited))
            time.sleep(POLL_SECONDS if waited > 1 else 0.005)

    def take_stall(self) -> float:
        """Seconds of standing still since this was last asked."""
        taken, self.stall = self.stall, 0.0
        return taken


def live_views(engine: Engine, mesh: Mesh) -> tuple[list[Live], list[Live] | None]:
    """What this rank writes: of trained parameters (weights and moments), of frozen ones (None where the model has none)."""
    live: list[Live] = []
    frozen: list[Live] = []
    for parameter in engine.module.parameters():
        kinds = KINDS if parameter.requires_grad else KINDS[:1]
        held = engine.held(parameter, kinds)
        if held is None:
            continue
        span = span_of(parameter, mesh.tp_size, held.start, held.stop)
        into = live if parameter.requires_grad else frozen
        into += [(kind, logical_of(parameter).name, span, view) for kind, view in held.views.items()]
    some = any(not parameter.requires_grad for parameter in engine.module.parameters())
    return live, frozen if some else None
