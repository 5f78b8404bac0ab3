"""Proof that the committed history trained on every planned sample once: the plan drawn again, and held against the ledger.

For each step the hash of its sample ids must be the ledger's. Over all steps no (source, epoch, sample) may come
twice, and at each window's end what was drawn must be what was trained on plus what the window left over.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.stream.plan.planner import Planner
from data_pipeline.stream.plan.rows import PlannedStep
from pretrain.checkpoint.ledger import SKIPPED, Ledger

MOST_PROBLEMS = 20


@dataclass
class Proof:
    """What was found. `problems` is empty where nothing was lost and nothing trained on twice."""

    steps: int = 0
    samples: int = 0
    failed: int = 0
    skipped_steps: int = 0
    starts: list[int] = field(default_factory=list)
    """Generations that the history is made of."""
    drawn: int = 0
    left_over: int = 0
    epochs: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "proved": not self.problems}


class _Seen:
    """Which samples of each epoch of each source were trained on."""

    def __init__(self, planner: Planner):
        self._sizes = [int(table.starts[-1]) for table in planner.tables]
        self._bits: dict[tuple[int, int], NDArray[np.bool_]] = {}

    def add(self, step: PlannedStep) -> int:
        """How many of a step's samples had been seen before."""
        samples, again = step.samples, 0
        keys = np.unique(np.stack([samples.source, samples.epoch], 1), axis=0).tolist() if len(samples) else []
        for source, epoch in keys:
            bits = self._bits.setdefault((source, epoch), np.zeros(self._sizes[source], np.bool_))
            chosen = samples.index[(samples.source == source) & (samples.epoch == epoch)]
            again += int(bits[chosen].sum()) + len(chosen) - len(np.unique(chosen))
            bits[chosen] = True
        return again

    def epochs(self, labels: list[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for source, epoch in self._bits:
            found[labels[source]] = max(found.get(labels[source], 0), epoch + 1)
        return found


def prove(ledger: Ledger, planner: Planner, progress: Callable[[int], object] = lambda step: None) -> Proof:
    """Draw the plan of steps 1 ... len(ledger) again and compare."""
    proof, seen, window = Proof(), _Seen(planner), planner.settings.window_steps
    for number, noted in enumerate(ledger):
        planned = planner.step(number)
        if bytes.fromhex(planner.ids_hash(number))[:8] != noted.ids:
            proof.problems.append(f"step {number + 1} trained on other samples than are planned for it")
        if again := seen.add(planned):
            proof.problems.append(
                f"step {number + 1} has {again} samples that were trained on before in the same epoch"
            )
        if len(planned.samples) != noted.samples:
            proof.problems.append(f"step {number + 1} trained on {noted.samples} of {len(planned.samples)} samples")
        proof.steps, proof.samples = number + 1, proof.samples + noted.samples
        proof.failed += noted.failed
        proof.skipped_steps += noted.flags & SKIPPED
        if noted.generation not in proof.starts:
            proof.starts.append(noted.generation)
        if (number + 1) % window == 0:
            _balance(proof, planner, (number + 1) // window)
        if len(proof.problems) >= MOST_PROBLEMS:
            break
        progress(number + 1)
    proof.epochs = seen.epochs([table.label for table in planner.tables])
    return proof


def _balance(proof: Proof, planner: Planner, window: int) -> None:
    """Before this window: drawn = trained on + left over."""
    start = planner.start_of(window)
    proof.drawn, proof.left_over = sum(cursor.drawn for cursor in start.cursors), len(start.carry)
    if proof.drawn != proof.samples + proof.left_over:
        proof.problems.append(
            f"after step {proof.steps}: {proof.drawn} samples were drawn, {proof.samples} trained on, {proof.left_over} left over"
        )
