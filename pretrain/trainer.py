"""The training loop: one run, one stage. Announced in sentences, killed and resumed at any moment.

recipe -> model (born under ZeRO) -> stage's freeze table -> engine -> loader -> steps -> checkpoints
"""

import gc
import json
import logging
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import RunError
from configs.load import dump_recipe
from configs.schema import TrainRecipe
from data_pipeline.storage import put
from data_pipeline.stream.batch import Batch
from pretrain import checkpoint as checkpoints
from pretrain.engine import Engine
from pretrain.loss import StepCounts, micro_loss
from pretrain.memory import is_out_of_memory, out_of_memory
from pretrain.mesh import Mesh, hardware, matmul_peak
from pretrain.metrics import MetricsLog, useful_flops, write_status
from pretrain.model.inputs import Inputs, to_inputs
from pretrain.model.vlm import Output
from pretrain.optim import make_optimizer, rate_scale, set_rates
from pretrain.provenance import provenance
from pretrain.reading import GroupLoader
from pretrain.run_folder import check_run_folder, step_of
from pretrain.stages import apply_stage, freeze_table
from pretrain.starting import born_model, circumstances, frozen_outside, make_features, take_up
from pretrain.validation import Validation

log = logging.getLogger(__name__)


class Preempted(RunError):
    """A signal asked us to stop: the checkpoint is written, the job should be queued again."""

    exit_code = 75


@dataclass
class Clock:
    """Seconds of the parts of a step on this rank."""

    parts: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def mark(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + now - self.last
        self.last = now


class Trainer:
    """Everything of one run on this rank. `run()` trains to the end (or to `until`)."""

    def __init__(self, recipe: TrainRecipe, run: Path, mesh: Mesh, resume_from: str | None = None):
        self.recipe, self.folder, self.mesh = recipe, run, mesh
        self._open_folder()
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
        self.step = take_up(recipe, run, mesh, self.engine, self.loader, self.say, resume_from)
        self.stop_asked = False
        self.validation = Validation(recipe, mesh, self.engine, self.model, self.loader.chat)
        self.log = MetricsLog(run, recipe, self.step) if mesh.is_first else None
        self.peak = matmul_peak(self.engine.math, mesh.device, seconds=0.2) * mesh.world

    # ---- making --------------------------------------------------------------------------------------------

    def _open_folder(self) -> None:
        """Make the run folder, or check that it holds this very run (topology, logging and pace may differ)."""
        check_run_folder(self.folder, self.recipe)
        if self.mesh.is_first:
            put(str(self.folder / "config.yaml"), dump_recipe(self.recipe).encode())

    # ---- running -------------------------------------------------------------------------------------------

    def run(self, until: int | None = None) -> None:
        """Train to the last step (or to step `until`), with checkpoints.

        Raises:
            Preempted: SIGTERM or SIGUSR1 came; the state is saved.
        """
        steps = min(until or self.recipe.stage.steps, self.recipe.stage.steps)
        self._announce(steps)
        handlers = {s: signal.signal(s, self._ask_stop) for s in (signal.SIGTERM, signal.SIGUSR1)}
        gc.collect()
        gc.freeze()  # long-lived objects are never garbage: scanning them costs milliseconds a step
        try:
            if self.step == 0:
                self._validate()
            while self.step < steps:
                stopping = self._train_step()
                last = self.step == steps
                every = self.recipe.evaluate.every
                if last or (every and self.step % every == 0):
                    self._validate()
                if last or stopping or self.step % self.recipe.checkpoint.every == 0:
                    self._save()
                if stopping and not last:
                    self._status("preempted")
                    raise Preempted(
                        f"stopped at step {self.step} by a signal: checkpoint written, start again to go on"
                    )
            self._status("done" if self.step == self.recipe.stage.steps else "stopped")
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _ask_stop(self, *_: Any) -> None:
        self.stop_asked = True

    def _train_step(self) -> bool:
        """One optimizer step. Returns whether any rank was asked to stop."""
        recipe, mesh, clock, counts = self.recipe, self.mesh, Clock(), StepCounts.empty()
        batches = self.loader.step(self.step)
        rates = set_rates(self.engine.optimizer, rate_scale(self.step, recipe.stage.steps, recipe.optim))
        clock.mark("data")
        for batch in batches:
            inputs = to_inputs(batch, mesh.device)
            clock.mark("inputs")
            out = self._micro_step(batch, inputs, clock)
            flops = useful_flops(
                recipe.model, self.loader.chat.vocab_size, self.model.channels, batch, self.model.encoder is not None
            )
            counts.add(batch, out.loss_sum, out.weight_sum, flops)
        totals, (stops,) = counts.reduced(mesh, (float(self.stop_asked),))
        clock.mark("wait")
        self.step += 1
        # Samples that all failed leave a step without a label: it taught nothing, and its loss says 0.
        loss = totals["loss_sum"] / totals["weight"] if totals["weight"] else 0.0
        if not loss < float("inf"):
            raise RunError(
                f"the loss of step {self.step} is {loss}: lower the learning rates in stage.train, or resume from an earlier checkpoint"
            )
        if self.log and (self.step % recipe.log.every == 0 or self.step == recipe.stage.steps):
            self._write(totals, loss, rates, clock, len(batches))
        return stops > 0

    def _micro_step(self, batch: Batch, inputs: Inputs, clock: Clock) -> Output:
        """Forward, backward and (at the last one of a step) update.

        Raises:
            RunError: memory ran out; says where it goes.
        """
        try:
            out = self.engine.forward(inputs)
            clock.mark("forward")
            self.engine.backward(micro_loss(out.loss_sum, batch.denominator, self.mesh.dp_size))
            clock.mark("backward")
            self.engine.step()
            clock.mark("step")
            return out
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            vocabulary = self.loader.chat.vocab_size
            raise RunError(out_of_memory(self.recipe, self.mesh, batch, self.table, vocabulary)) from error

    def _write(self, totals: dict[str, float], loss: float, rates: dict[str, float], clock: Clock, micro: int) -> None:
        assert self.log is not None
        seconds = sum(clock.parts.values())
        line = {
            "step": self.step,
            "loss": loss,
            "grad_norm": self.engine.grad_norm(),
            "lr": rates,
            "label_tokens": int(totals["label_tokens"]),
            "real_tokens": int(totals["real_tokens"]),
            "visual_tokens": int(totals["visual_tokens"]),
            "images": int(totals["images"]),
            "fill": totals["real_tokens"] / totals["positions"],
            "fillers": int(totals["fillers"]),
            "seconds": {**{k: round(v, 5) for k, v in clock.parts.items()}, "total": round(seconds, 5)},
            "tokens_per_s": totals["real_tokens"] / seconds,
            "mfu": totals["flops"] / seconds / self.peak,
            "ids_hash": self.loader.ids_hash(self.step - 1),
            "wall": time.time(),
        }
        self.log.write(line)
        if self.step % 10 == 0 or self.step == 1:
            self._status("running")
            print(
                f"{self.recipe.name} step {self.step}/{self.recipe.stage.steps}  loss {loss:.4f}  "
                f"norm {line['grad_norm']:.2f}  {line['tokens_per_s']:,.0f} tok/s  fill {line['fill']:.3f}",
                flush=True,
            )

    def _validate(self) -> None:
        result = self.validation.run(self.step)
        if result is not None and self.log:
            self.log.write({"step": self.step, "validation": result["numbers"]})
            with (self.folder / "predictions.jsonl").open("a", encoding="utf-8") as stream:
                for row in result["answers"]:
                    stream.write(json.dumps({"step": self.step, **row}, ensure_ascii=False) + "\n")
            self.say(f"validation at step {self.step}: {result['numbers']}")

    def _save(self) -> None:
        start = time.perf_counter()
        state = {
            "optimizer_steps": self.engine.optimizer_steps(),
            "loader": self.loader.state_dict(self.step),
            **circumstances(self.recipe, self.mesh),
        }
        checkpoints.save(self.folder, self.step, self.engine, self.mesh, state, self.recipe.checkpoint.keep_last)
        if self.log:
            self.log.flush()
        self._status("running")
        self.say(f"checkpoint of step {self.step} in {time.perf_counter() - start:.2f} s")

    def _announce(self, steps: int) -> None:
        if not self.mesh.is_first:
            return
        put(str(self.folder / "freeze.json"), json.dumps(self.table, indent=1).encode())
        put(
            str(self.folder / "versions.json"),
            json.dumps({**provenance(), "hardware": hardware(), "seed": self.recipe.seed}, indent=1).encode(),
        )
        self.say(
            f"{self.recipe.name}: steps {self.step} -> {steps} of {self.recipe.stage.steps}, {self.mesh.dp_size} x data, {self.mesh.tp_size} x tensor parallel, ZeRO-{self.recipe.parallel.zero}"
        )
        for row in self.table:
            what = f"trained at {row['lr']:g}" if row["trainable"] else "frozen"
            self.say(f"  {row['module']:<24} {row['parameters']:>12,} parameters  {what}")
        self._status("running")

    def _status(self, state: str) -> None:
        if self.mesh.is_first:
            write_status(self.folder, state, self.step, self.recipe.stage.steps)

    def say(self, sentence: str) -> None:
        if self.mesh.is_first:
            print(sentence, flush=True)

    def close(self) -> None:
        self.loader.close()
        if self.log:
            self.log.close()


def train(
    recipe: TrainRecipe, run: str | Path, mesh: Mesh, until: int | None = None, resume_from: str | None = None
) -> bool:
    """Train a recipe into a run folder; goes on from its newest checkpoint. Returns whether there was anything to do."""
    folder = Path(run)
    steps = min(until or recipe.stage.steps, recipe.stage.steps)
    newest = checkpoints.latest(folder)
    done = step_of(newest) if newest else 0
    if done >= steps:
        if mesh.is_first:
            print(f"{folder} has step {done} of {recipe.stage.steps} already: nothing to train", flush=True)
        return False
    trainer = Trainer(recipe, folder, mesh, resume_from)
    try:
        trainer.run(until)
        return True
    except Preempted:
        raise  # nothing failed, and the status says what happened
    except BaseException:
        trainer._status("failed")
        raise
    finally:
        trainer.close()
