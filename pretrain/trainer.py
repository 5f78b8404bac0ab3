"""The training loop: one run, one stage. Announced in sentences, killed and resumed at any moment.

recipe -> model (born under ZeRO) -> stage's freeze table -> engine -> loader -> steps -> checkpoints
"""

import gc
import time
from pathlib import Path

from cluster.heartbeat import Heart
from cluster.preempt import Stop
from configs.errors import RunError
from configs.load import dump_recipe
from configs.schema import TrainRecipe
from data_pipeline.storage import put
from data_pipeline.stream.batch import Batch
from pretrain.checkpoint.ledger import SKIPPED
from pretrain.checkpoint.pausing import pause_at
from pretrain.commits import Commits
from pretrain.engine import Engine
from pretrain.guard import Guard
from pretrain.loss import StepCounts
from pretrain.mesh import Mesh, matmul_peak
from pretrain.optim import make_optimizer, rate_scale, set_rates
from pretrain.passes import Clock, Passes
from pretrain.reading import GroupLoader
from pretrain.record import Record
from pretrain.run_folder import check_run_folder
from pretrain.stages import apply_stage, freeze_table
from pretrain.starting import born_model, circumstances, frozen_outside, make_features, take_up
from pretrain.stragglers import Stragglers
from pretrain.validation import Validation


class Preempted(RunError):
    """A signal asked us to stop: the checkpoint is written, the job should be queued again."""

    exit_code = 75


class Trainer:
    """Everything of one run on this rank. `run()` trains to the end (or to `until`).

    Args:
        heart: told where this rank is, if there is one.
        stop: asked at each step's end.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        run: Path,
        mesh: Mesh,
        resume_from: str | None = None,
        heart: Heart | None = None,
        stop: Stop | None = None,
    ):
        self.recipe, self.folder, self.mesh, self.heart, self.stop = recipe, run, mesh, heart, stop or Stop()
        self._open_folder()
        self.commits = Commits(recipe.checkpoint, run, mesh, self.say)
        self.features = make_features(recipe, mesh, self.say)
        self.loader = GroupLoader(recipe, mesh, self.features, str(run / "plan.log"))
        self.model = born_model(recipe, mesh, self.loader.chat.vocab_size)
        outside = frozen_outside(recipe)
        rows = apply_stage(self.model, recipe.stage.train, outside)
        self.table = freeze_table(rows, outside)
        micro_steps = self.loader.micro_steps
        self.engine = Engine(
            self.model, make_optimizer(rows, recipe.optim), recipe.parallel, mesh, micro_steps, recipe.optim.clip
        )
        self.commits.saver.waiting = lambda seconds: self._at(f"checkpoint ({seconds} s)")
        self.guard = Guard(recipe.optim)
        vocabulary = self.loader.chat.vocab_size
        self.passes = Passes(recipe, mesh, self.model, self.engine, self.commits, vocabulary, self._is_at, self.say)
        self.stragglers = Stragglers(mesh, recipe.parallel.straggler_ratio, self.say)
        self.taken = take_up(recipe, mesh, self.engine, self.loader, self.commits, self.guard, self.say, resume_from)
        self.step, self.best, self.worse = self.taken.step, self.taken.best, self.taken.worse
        self.validation = Validation(recipe, mesh, self.engine, self.model, self.loader.chat)
        self.record = Record(run, recipe, mesh, self.commits.generation, self.step)
        self.peak = matmul_peak(self.engine.math, mesh.device, seconds=0.2) * mesh.world
        self._validated = 0.0

    def _open_folder(self) -> None:
        """Make the run folder, or check that it holds this very run (topology, logging and pace may differ)."""
        check_run_folder(self.folder, self.recipe)
        if self.mesh.is_first:
            put(str(self.folder / "config.yaml"), dump_recipe(self.recipe).encode())

    # ---- running -------------------------------------------------------------------------------------------

    def run(self, until: int | None = None) -> None:
        """Train to the last step (or to step `until`), with checkpoints.

        Raises:
            Preempted: SIGTERM or SIGUSR1 came, or the job's time is nearly over; the state is saved.
            Fenced: another start has taken the run over.
        """
        steps = min(until or self.recipe.stage.steps, self.recipe.stage.steps)
        self.record.announce(self.step, steps, self.table)
        gc.collect()
        gc.freeze()  # long-lived objects are never garbage: scanning them costs milliseconds a step
        with self.stop:
            self.record.ready(self.step)
            if self.step == 0:
                self._validate()
            while self.step < steps:
                stopping = self._train_step()
                if self._end_of_step(stopping, steps):
                    break
        self.record.end("done" if self.step == self.recipe.stage.steps or self._early else "stopped", self.step)

    def _end_of_step(self, stopping: bool, steps: int) -> bool:
        """Validation, checkpoint and leaving, as they are due. Returns whether the run is over."""
        last = self.step == steps
        every = self.recipe.evaluate.every
        score = self._validate() if last or (every and self.step % every == 0) else None
        last = last or self._early
        if last or stopping or self.step % self.recipe.checkpoint.every == 0:
            self._save(score)
        if last or stopping:
            self._at("commit")
            self.commits.settle()
            self._moment()
        if stopping and not last:
            self.record.end("preempted", self.step)
            raise Preempted(
                f"stopped at step {self.step} by {self.stop.reason or 'a signal on another rank'}: checkpoint written, "
                "start again to go on"
            )
        return last

    @property
    def _early(self) -> bool:
        """Validation has not got better for as long as evaluate.stop_after allows."""
        limit = self.recipe.evaluate.stop_after
        return bool(limit) and self.worse >= limit

    def _train_step(self) -> bool:
        """One optimizer step. Returns whether any rank was asked to stop."""
        recipe, clock = self.recipe, Clock()
        self._at("data")
        batches = self.loader.step(self.step)
        rates = set_rates(self.engine.optimizer, rate_scale(self.step, recipe.stage.steps, recipe.optim))
        clock.mark("data")
        left_out = self.step + 1 in self.guard.left_out
        counts = StepCounts.empty() if left_out else self.passes.train_on(self.step + 1, batches, clock)
        busy = sum(
            seconds for part, seconds in clock.parts.items() if part in ("data", "inputs", "forward", "backward")
        )
        flags = (float(self.stop.asked), *self.commits.flags())
        self._at("wait")
        totals, (stops, failed, fenced, *speeds) = counts.reduced(self.mesh, (*flags, *self.stragglers.mine(busy)))
        clock.mark("wait")
        self.step += 1
        self.stragglers.judge(self.step, speeds)
        self.commits.judge(failed, fenced)
        # Samples that all failed leave a step without a label: it taught nothing, and its loss says 0.
        loss = totals["loss_sum"] / totals["weight"] if totals["weight"] else 0.0
        finite = left_out or (not self.engine.skipped and loss < float("inf"))
        self._note(batches, totals, flags=0 if finite and not left_out else SKIPPED)
        if not finite:
            self.say(f"step {self.step}: loss {loss}, the gradient is not finite: the weights stay as they are")
        if not left_out and self.guard.judge(self.step, loss, finite):
            self._go_back()
            return stops > 0
        if self.mesh.is_first and (self.step % recipe.log.every == 0 or self.step == recipe.stage.steps):
            told = {"lr": rates, "grad_norm": self.engine.grad_norm(), "ids_hash": self.loader.ids_hash(self.step - 1)}
            self.record.step(self.step, loss, totals, clock.parts, self.peak, told)
            self._moment()
        return stops > 0

    def _at(self, phase: str) -> None:
        self._is_at(self.step + 1, phase)

    def _is_at(self, step: int, phase: str) -> None:
        """Where this rank is now: for the others if it stays there, and for tests."""
        if self.heart:
            self.heart.at(step, phase)
        pause_at(f"{phase}:{step}", self.mesh.rank)

    def _go_back(self) -> None:
        """Take up the newest checkpoint in place; what the guard decided stays."""
        self.commits.settle()
        self.commits.before_update()
        was = self.step
        if self.mesh.is_first:
            self.commits.head = self.commits.heads.read()
        self.taken = take_up(
            self.recipe, self.mesh, self.engine, self.loader, self.commits, self.guard, self.say, None, again=True
        )
        self.step = self.taken.step
        self.record.back_to(self.step)
        self.say(f"step {was} is undone: back to step {self.step}")

    # ---- what is kept ----------------------------------------------------------------------------------------

    def _note(self, batches: list[Batch], totals: dict[str, float], flags: int) -> None:
        """A line of the ledger."""
        if self.mesh.is_first:
            self.commits.ledger.add(
                self.step,
                self.loader.ids_hash(self.step - 1),
                int(totals["samples"]),
                int(totals["fillers"]),
                self.commits.generation,
                flags,
            )

    def _moment(self) -> None:
        """The steps up to here are over: a moment of the timeline."""
        self.record.moment(self.step, self.commits.take_stall(), self._validated)
        self._validated = 0.0

    def _validate(self) -> float | None:
        """Validate; returns the held-out loss, None where nothing is held out."""
        begun = time.perf_counter()
        self._at("validation")
        result = self.validation.run(self.step)
        self._validated += time.perf_counter() - begun
        if result is None:
            return None
        score = float(result["numbers"]["loss"])
        better = self.best is None or score < self.best
        self.best, self.worse = (score, 0) if better else (self.best, self.worse + 1)
        self.record.validation(self.step, result)
        return score

    def _save(self, score: float | None) -> None:
        """Order a checkpoint: it is copied during the next step and committed behind it."""
        self._at("save")
        state = {
            "optimizer_steps": self.engine.optimizer_steps(),
            "loader": self.loader.state_dict(self.step),
            "guard": self.guard.state(),
            "best": self.best,
            "worse": self.worse,
            **circumstances(self.recipe, self.mesh),
        }
        self.commits.order(self.step, self.engine, state, score)
        self.record.flush(self.step)
        if self.commits.saver.committed:
            self.stop.needs = 10.0 + 3.0 * self.commits.saver.committed[-1][1]
        self.record.status("running", self.step)

    def say(self, sentence: str) -> None:
        if self.mesh.is_first:
            print(sentence, flush=True)

    def close(self) -> None:
        self.loader.close()
        self.record.close()
