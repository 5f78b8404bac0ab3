"""Asking the planner process. The first rank of a node starts it, the others are told its address."""

import socket
import threading
from typing import Any

from configs.errors import RunError, UserError
from configs.schema import TrainRecipe
from data_pipeline.stream.plan.rows import PlannedStep
from data_pipeline.stream.prefetch.process import Child, Gone
from data_pipeline.stream.prefetch.transport import receive, send

MODULE = "data_pipeline.stream.service.process"
COUNT_SECONDS = 24 * 3600.0
"""The first start of a run may have to count the tokens of a whole dataset."""
ANSWER_SECONDS = 1800.0
"""A step that was never planned is reached by planning forward."""


class PlanProcess:
    """The planner's process: started here; after `close` it ends with its last client, at the latest with this process.

    Args:
        log, write: plan.log of the run, and whether it is appended to.

    Raises:
        UserError: the data cannot be planned.
        RunError: the process died.
    """

    def __init__(self, recipe: TrainRecipe, log: str | None = None, write: bool = False):
        self._child = Child(MODULE, "the planner process")
        question = {"recipe": recipe.model_dump(mode="json"), "log": log, "write": write}
        try:
            header, _, _ = self._child.ask(question, seconds=COUNT_SECONDS)
        except Gone as error:
            raise RunError(f"{error} while it started: see its output above") from None
        self.address, self.fingerprint = header["address"], header["fingerprint"]

    def client(self) -> "PlanClient":
        """The connection of the rank that started it, which ends it when it closes."""
        return PlanClient(self.address, self.fingerprint, self)

    def close(self) -> None:
        """Let it end as soon as no rank of this node is connected: others may have a step to go."""
        self._child.link.close()


class PlanClient:
    """A rank's connection to the planner of its node."""

    def __init__(self, address: str, fingerprint: str, owner: PlanProcess | None = None):
        self.address, self.fingerprint, self._owner = address, fingerprint, owner
        self._lock = threading.Lock()
        self._link = socket.socket(socket.AF_UNIX)
        try:
            self._link.connect("\0" + address)
        except OSError as error:
            raise RunError(f"the planner process of this node does not answer ({error}): start the job again") from None
        self._link.settimeout(ANSWER_SECONDS)

    def step(self, step: int) -> PlannedStep:
        return PlannedStep.from_bytes(self._ask({"ask": "step", "step": step})[1])

    def state(self, step: int) -> dict[str, Any]:
        found: dict[str, Any] = self._ask({"ask": "state", "step": step})[0]["state"]
        return found

    def restore(self, state: dict[str, Any]) -> None:
        self._ask({"ask": "restore", "state": state})

    def ids_hash(self, step: int) -> str:
        return str(self._ask({"ask": "ids_hash", "step": step})[0]["hash"])

    def _ask(self, header: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        with self._lock:
            try:
                send(self._link, header)
                answer, body, _ = receive(self._link)
            except TimeoutError:
                raise RunError(
                    f"the planner process did not answer for {ANSWER_SECONDS:.0f} s: start the job again"
                ) from None
            except (EOFError, OSError):
                raise RunError("the planner process of this node is gone: start the job again, it resumes") from None
        if "error" in answer:
            raise (UserError if answer["kind"] == "UserError" else RunError)(answer["error"])
        return answer, body

    def close(self) -> None:
        self._link.close()
        if self._owner is not None:
            self._owner.close()
