"""What a run says of itself while it trains: console, metrics, status, timeline. Only the first rank does anything."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.schema import TrainRecipe
from data_pipeline.storage import put
from pretrain.goodput import Timeline, born, goodput
from pretrain.mesh import Mesh, hardware
from pretrain.metrics import MetricsLog, write_status
from pretrain.provenance import provenance

MOMENT_SECONDS = 1.0
COUNTED = ("label_tokens", "real_tokens", "visual_tokens", "images", "fillers")


class Record:
    """The record of one start, which takes the run up at `step`."""

    def __init__(self, run: Path, recipe: TrainRecipe, mesh: Mesh, generation: int, step: int):
        self.folder, self.recipe, self.mesh, self.generation = run, recipe, mesh, generation
        self.log = MetricsLog(run, recipe, step) if mesh.is_first else None
        self.timeline = Timeline(run, generation) if mesh.is_first else None
        self._next_sum = 0.0
        if self.timeline:
            self.timeline.add("start", step, at=born())

    def announce(self, step: int, steps: int, table: list[dict[str, object]]) -> None:
        """What will be trained, from step to step."""
        if not self.mesh.is_first:
            return
        put(str(self.folder / "freeze.json"), json.dumps(table, indent=1).encode())
        versions = {**provenance(), "hardware": hardware(), "seed": self.recipe.seed}
        put(str(self.folder / "versions.json"), json.dumps(versions, indent=1).encode())
        mesh, zero = self.mesh, self.recipe.parallel.zero
        lines = [
            f"{self.recipe.name}: steps {step} -> {steps} of {self.recipe.stage.steps}, {mesh.dp_size} x data, "
            f"{mesh.tp_size} x tensor parallel, ZeRO-{zero}"
        ]
        for row in table:
            what = f"trained at {row['lr']:g}" if row["trainable"] else "frozen"
            lines.append(f"  {row['module']:<24} {row['parameters']:>12,} parameters  {what}")
        print("\n".join(lines), flush=True)
        self.status("running", step)

    def ready(self, step: int) -> None:
        """The first step of this start begins."""
        if self.timeline:
            self.timeline.add("ready", step)

    def step(
        self,
        step: int,
        loss: float,
        totals: Mapping[str, float],
        parts: Mapping[str, float],
        peak: float,
        told: Mapping[str, Any],
    ) -> None:
        """A finished step: `totals` over all ranks, seconds by part, `peak` in FLOP/s, `told` goes into the line as it is."""
        assert self.log is not None
        seconds = sum(parts.values())
        line = {
            "step": step,
            "loss": loss,
            **told,
            **{name: int(totals[name]) for name in COUNTED},
            "fill": totals["real_tokens"] / totals["positions"] if totals["positions"] else 0.0,
            "seconds": {**{k: round(v, 5) for k, v in parts.items()}, "total": round(seconds, 5)},
            "tokens_per_s": totals["real_tokens"] / seconds,
            "mfu": totals["flops"] / seconds / peak,
            "wall": time.time(),
        }
        self.log.write(line)
        if step % 10 == 0 or step == 1:
            self.status("running", step)
            print(
                f"{self.recipe.name} step {step}/{self.recipe.stage.steps}  loss {loss:.4f}  norm {told['grad_norm']:.2f}  "
                f"{line['tokens_per_s']:,.0f} tok/s  fill {line['fill']:.3f}",
                flush=True,
            )

    def moment(self, step: int, stall: float, validation: float) -> None:
        """The steps up to here are over; seconds of them that were spent standing still and validating."""
        if self.timeline:
            self.timeline.add("step", step, stall=stall, validation=validation)

    def validation(self, step: int, result: Mapping[str, Any]) -> None:
        """Held-out numbers, and the answers that are kept over time."""
        if self.log is None:
            return
        self.log.write({"step": step, "validation": result["numbers"]})
        with (self.folder / "predictions.jsonl").open("a", encoding="utf-8") as stream:
            for row in result["answers"]:
                stream.write(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n")
        print(f"validation at step {step}: {result['numbers']}", flush=True)

    def flush(self, step: int) -> None:
        """Before a checkpoint of `step`: nothing that it counts on may be lost with the machine."""
        if not self.log:
            return
        begun = time.monotonic()
        told = goodput(self.folder) if begun >= self._next_sum else None
        # A long run has a long timeline: summing it up may take a hundredth of the time.
        if told is not None:
            self._next_sum = time.monotonic() + max(MOMENT_SECONDS, 100 * (time.monotonic() - begun))
        self.log.flush(told, step)

    def back_to(self, step: int) -> None:
        """Later steps are undone."""
        if self.log and self.timeline:
            self.log.back_to(step)
            self.timeline.add("start", step)
            self.timeline.add("ready", step)

    def status(self, state: str, step: int) -> None:
        """status.json: running, stopped, preempted, failed or done."""
        if self.mesh.is_first:
            write_status(self.folder, state, step, self.recipe.stage.steps, generation=self.generation)

    def end(self, state: str, step: int) -> None:
        """This start is over, in good order."""
        self.status(state, step)
        if self.timeline:
            self.timeline.add("end", step)

    def close(self) -> None:
        if self.log:
            self.log.close()
