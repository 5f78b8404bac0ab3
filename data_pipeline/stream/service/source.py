"""What a loader asks of a plan, and the planner in this very process."""

import threading
from typing import Any, Protocol

from data_pipeline.stream.plan.planner import Planner
from data_pipeline.stream.plan.rows import PlannedStep


class PlanSource(Protocol):
    """Steps by number. Raises UserError and RunError as the planner does."""

    fingerprint: str

    def step(self, step: int) -> PlannedStep: ...

    def state(self, step: int) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...

    def ids_hash(self, step: int) -> str: ...

    def close(self) -> None: ...


class PlanHere:
    """A planner that this process's threads share."""

    def __init__(self, planner: Planner):
        self.planner, self.fingerprint = planner, planner.fingerprint
        self._lock = threading.Lock()

    def step(self, step: int) -> PlannedStep:
        with self._lock:
            return self.planner.step(step)

    def state(self, step: int) -> dict[str, Any]:
        with self._lock:
            return self.planner.state(step)

    def restore(self, state: dict[str, Any]) -> None:
        with self._lock:
            self.planner.restore(state)

    def ids_hash(self, step: int) -> str:
        with self._lock:
            return self.planner.ids_hash(step)

    def close(self) -> None: ...
