"""What is done about a step whose gradient is not finite, or whose loss leaps: skipped, undone, or the end of the run."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from configs.errors import NO_REQUEUE, RunError
from configs.training import OptimConfig

WINDOW = 100
FEWEST = 20
"""Steps that have to be known before a loss can be called a leap."""


class Flood(RunError):
    """Too many steps are not finite: another start would meet them again."""

    exit_code = NO_REQUEUE


@dataclass
class Guard:
    """Judges steps by values that all ranks know alike, so that all decide alike."""

    config: OptimConfig
    left_out: set[int] = field(default_factory=set)
    """Steps whose samples are read and not trained on, as rollback decided."""
    tried: set[int] = field(default_factory=set)
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    nonfinite: int = 0
    rollbacks: int = 0

    def judge(self, step: int, loss: float, finite: bool) -> bool:
        """Whether to go back to the newest checkpoint after step `step` (from 1).

        Raises:
            RunError: policy `stop`, or a flood.
        """
        self.recent.append(0 if finite else 1)
        if not finite:
            self.nonfinite += 1
            return self._not_finite(step, loss)
        ratio, known = self.config.spike_ratio, len(self.losses)
        if ratio and known >= FEWEST and loss > ratio * sum(self.losses) / known:
            self.left_out.add(step)
            return self._back(step)
        self.losses.append(loss)
        return False

    def _not_finite(self, step: int, loss: float) -> bool:
        remedy = "lower the learning rates in stage.train, or set optim.clip"
        if self.config.nonfinite == "stop":
            raise Flood(
                f"the gradient of step {step} is not finite (its loss is {loss}): {remedy}, or optim.nonfinite=skip"
            )
        if sum(self.recent) >= self.config.max_nonfinite:
            raise Flood(
                f"{sum(self.recent)} of the last {len(self.recent)} steps had gradients that are not finite, the last was step "
                f"{step} (loss {loss}): {remedy}; optim.max_nonfinite is {self.config.max_nonfinite}"
            )
        if self.config.nonfinite == "rollback" and step not in self.tried:
            self.tried.add(step)
            return self._back(step)
        return False

    def _back(self, step: int) -> bool:
        self.rollbacks += 1
        if self.rollbacks > self.config.max_nonfinite:
            raise Flood(
                f"{self.rollbacks} times back to a checkpoint, now from step {step}: lower the learning rates in stage.train"
            )
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run judges alike."""
        return {
            "left_out": sorted(self.left_out),
            "tried": sorted(self.tried),
            "recent": list(self.recent),
            "losses": list(self.losses),
            "nonfinite": self.nonfinite,
            "rollbacks": self.rollbacks,
        }

    def load(self, state: dict[str, Any], keep_decisions: bool = False) -> None:
        """Take up a checkpoint's state; after a rollback what was decided since stays."""
        decided, tried, rollbacks = self.left_out, self.tried, self.rollbacks
        self.left_out, self.tried = set(state["left_out"]), set(state["tried"])
        self.recent, self.losses = deque(state["recent"], WINDOW), deque(state["losses"], WINDOW)
        self.nonfinite, self.rollbacks = state["nonfinite"], state["rollbacks"]
        if keep_decisions:
            self.left_out |= decided
            self.tried |= tried
            self.rollbacks = max(rollbacks, self.rollbacks)
