"""Which rank is slow: each one's own seconds of a step ride along with the step's sums."""

from collections.abc import Callable, Sequence
from statistics import median

from configs.errors import REQUEUE, RunError
from pretrain.mesh import Mesh

STEPS = 20
SLOW = 1.5
LEAST_SECONDS = 0.05


class Straggling(RunError):
    """A rank holds up all others: another start may be given another host."""

    exit_code = REQUEUE


class Stragglers:
    """Judges alike on all ranks, for all know all ranks' seconds.

    Args:
        limit: times the median at which a rank ends the job after STEPS steps; 0: it is only named.
    """

    def __init__(self, mesh: Mesh, limit: float, say: Callable[[str], None]):
        self.mesh, self.limit, self.say = mesh, limit, say
        self._sums, self._steps = [0.0] * mesh.world, 0

    def mine(self, seconds: float) -> tuple[float, ...]:
        """This rank's seconds at its place among zeros: to be summed over ranks."""
        return tuple(seconds if rank == self.mesh.rank else 0.0 for rank in range(self.mesh.world))

    def judge(self, step: int, seconds: Sequence[float]) -> None:
        """Take the sums of `mine`.

        Raises:
            Straggling: a rank was slower than the limit allows for STEPS steps.
        """
        self._sums = [before + now for before, now in zip(self._sums, seconds, strict=True)]
        self._steps += 1
        if self._steps < STEPS:
            return
        sums, self._sums, self._steps = self._sums, [0.0] * self.mesh.world, 0
        middle, slowest = median(sums), max(range(len(sums)), key=sums.__getitem__)
        if self.mesh.world < 3 or sums[slowest] < LEAST_SECONDS * STEPS or sums[slowest] < SLOW * middle:
            return
        ratio = sums[slowest] / middle if middle else float("inf")
        sentence = f"rank {slowest} was {ratio:.1f} times slower than the median in steps {step - STEPS + 1} to {step}"
        if self.limit and ratio > self.limit:
            raise Straggling(
                f"{sentence}, which parallel.straggler_ratio {self.limit:g} does not allow: look at its host"
            )
        self.say(sentence)
