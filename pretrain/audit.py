"""Looking for silent corruption: replicas compared, weights held against their masters, a step done twice.

A flipped bit in a replica, in a weight or its master, or in the gradients of the audited step shows as a difference and is
named with its parameter. (Found in the field by Meta's and Google's fleets; Megatron's rerun machine is the like of it.)
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.errors import REQUEUE, RunError
from pretrain.agree import gathered
from pretrain.engine import KINDS, Engine
from pretrain.mesh import Mesh
from pretrain.model.linear import logical_of

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Corrupted(RunError):
    """Memory or arithmetic gave a wrong value: the next start resumes from the newest checkpoint."""

    exit_code = REQUEUE


class Audit:
    """Checks of one engine. Every rank calls everything equally often."""

    def __init__(self, engine: Engine, mesh: Mesh, say: Callable[[str], None]):
        self.engine, self.mesh, self.say = engine, mesh, say
        self._saved: list[tuple[Tensor, Tensor]] = []
        self._updates = 0

    def before(self, step: int) -> None:
        """Before an audited step: compare what should be equal, and keep the state to do the step again.

        Raises:
            Corrupted: on every rank, with the parameters that differ.
        """
        problems = [*self._against_masters(), *self._against_replicas()]
        self._judge(step, problems)
        self._updates = self.engine.optimizer_steps()
        self._saved = [(view, view.clone()) for view in self._views()]

    def again(self, step: int, repeat: Callable[[], object]) -> None:
        """After it: put the state back, do the step again, and compare bits."""
        after = [view.clone() for view in self._views()]
        if len(self._saved) < len(after):
            self._saved = []  # the first update made the moments: there is no state before it to go back to
            return
        for view, saved in self._saved:
            view.copy_(saved)
        self.engine.set_optimizer_steps(self._updates)
        self.engine.weights_follow()
        self._saved = []
        repeat()
        names = self._names()
        differing = sorted({names[n] for n, view in enumerate(self._views()) if not torch.equal(view, after[n])})
        self._judge(step, [f"{name} has other bits when the step is done again" for name in differing])
        self.say(f"audit at step {step}: replicas and masters agree, the step repeats bit by bit")

    def _parameters(self) -> list[tuple[nn.Parameter, tuple[str, ...]]]:
        moments = self.engine.has_moments()
        parameters = self.engine.module.parameters()
        return [(p, KINDS if moments else KINDS[:1]) for p in parameters if p.requires_grad]

    def _views(self) -> list[Tensor]:
        held = [each for p, kinds in self._parameters() for each in self.engine.wanted(p, kinds)]
        return [view for each in held for view in each.views.values()]

    def _names(self) -> list[str]:
        return [
            logical_of(p).name
            for p, kinds in self._parameters()
            for each in self.engine.wanted(p, kinds)
            for _ in each.views
        ]

    def _against_masters(self) -> list[str]:
        """Weights that forward uses are their masters, rounded."""
        problems = []
        for parameter, _ in self._parameters():
            pair = self.engine.weight_and_master(parameter)
            if pair is not None and not torch.equal(pair[0], pair[1].to(pair[0].dtype)):
                problems.append(f"{logical_of(parameter).name} is not its master rounded")
        return problems

    def _against_replicas(self) -> list[str]:
        """What several ranks hold alike has the same bits on all of them."""
        problems = []
        for group, size, chosen in (
            (self.mesh.tp_group, self.mesh.tp_size, lambda p: logical_of(p).axis is None),
            (self.mesh.dp_group, self.mesh.dp_size, lambda p: self.engine.zero != 3),
        ):
            parameters = [p for p in self.engine.module.parameters() if chosen(p)] if size > 1 else []
            if not parameters:
                continue
            mine = torch.stack([_bits(self.engine.visible(p)) for p in parameters]).to(self.mesh.device)
            everyone = [torch.empty_like(mine) for _ in range(size)]
            dist.all_gather(everyone, mine, group=group)
            table = torch.stack(everyone)
            for number in (table != table[0]).any(0).nonzero().flatten().tolist():
                problems.append(f"{logical_of(parameters[number]).name} differs between ranks that hold it alike")
        return problems

    def _judge(self, step: int, problems: list[str]) -> None:
        said = [(rank, text) for rank, found in enumerate(gathered(self.mesh, problems[:4])) for text in found]
        if said:
            rank, text = said[0]
            more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
            raise Corrupted(
                f"silent corruption at step {step} on rank {rank}: {text}{more}; the next start resumes from the newest checkpoint"
            )


def _bits(tensor: Tensor) -> Tensor:
    """The sum of a tensor's bits as whole numbers: a single flipped bit changes it."""
    flat = tensor.detach().reshape(-1)
    return flat.view(WORDS[flat.element_size()]).sum(dtype=torch.int64)
