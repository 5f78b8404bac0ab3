"""Forward, backward and update over the micro-steps of one optimizer step, with the seconds of each part."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from configs.errors import RunError
from configs.schema import TrainRecipe
from data_pipeline.stream.batch import Batch
from pretrain.audit import Audit
from pretrain.commits import Commits
from pretrain.engine import Engine
from pretrain.loss import StepCounts, micro_loss
from pretrain.memory import is_out_of_memory, out_of_memory
from pretrain.mesh import Mesh
from pretrain.metrics import useful_flops
from pretrain.model.inputs import Inputs, to_inputs
from pretrain.model.vlm import Output, VisionLanguageModel


@dataclass
class Clock:
    """Seconds of the parts of a step on this rank."""

    parts: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def mark(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + now - self.last
        self.last = now


class Passes:
    """The model's work of a step.

    Args:
        vocabulary: tokens of the tokenizer.
        at: told (step, phase) before each part.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        mesh: Mesh,
        model: VisionLanguageModel,
        engine: Engine,
        commits: Commits,
        vocabulary: int,
        at: Callable[[int, str], None],
        say: Callable[[str], None],
    ):
        self.recipe, self.mesh, self.model, self.engine, self.commits = recipe, mesh, model, engine, commits
        self.vocabulary, self.at = vocabulary, at
        self.audit = Audit(engine, mesh, say)
        self.step = 0

    def train_on(self, step: int, batches: list[Batch], clock: Clock) -> StepCounts:
        """Forward and backward over all micro-steps of step `step` (from 1), and the update; audited where the recipe asks for it."""
        self.step = step
        every = self.recipe.checkpoint.audit_every
        audited = bool(every) and step % every == 0
        if audited:
            self.commits.before_update()
            self.audit.before(step)
        counts = self._over(batches, clock)
        if audited:
            self.audit.again(step, lambda: self._over(batches, Clock()))
            clock.mark("audit")
        return counts

    def _over(self, batches: list[Batch], clock: Clock) -> StepCounts:
        counts = StepCounts.empty()
        for number, batch in enumerate(batches):
            inputs = to_inputs(batch, self.mesh.device)
            clock.mark("inputs")
            out = self._micro_step(batch, inputs, clock, last=number == len(batches) - 1)
            flops = useful_flops(
                self.recipe.model,
                self.vocabulary,
                batch,
                self.model.encoder is not None,
            )
            counts.add(batch, out.loss_sum, out.weight_sum, flops)
        return counts

    def _micro_step(self, batch: Batch, inputs: Inputs, clock: Clock, last: bool) -> Output:
        """Forward, backward and (at the last one of a step) update.

        Raises:
            RunError: memory ran out; says where it goes.
        """
        try:
            self.at(self.step, "forward")
            out = self.engine.forward(inputs)
            clock.mark("forward")
            self.at(self.step, "backward")
            self.engine.backward(micro_loss(out.loss_sum, batch.denominator, self.mesh.dp_size))
            clock.mark("backward")
            if last:
                self.commits.before_update()
                clock.mark("checkpoint")
            self.at(self.step, "update")
            self.engine.step()
            clock.mark("step")
            return out
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(out_of_memory(self.recipe, self.mesh, batch, self.vocabulary)) from error
