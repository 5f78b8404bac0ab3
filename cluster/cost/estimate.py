"""A recipe on a site as numbers: memory by item, traffic, FLOPs, seconds. Joins the other modules; prints nothing."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import ceil
from typing import Any

from cluster.cost.activations import Activations, Numbers, activations
from cluster.cost.cnn import channels
from cluster.cost.gathers import Gathers, gathers
from cluster.cost.load import Load, Rows, Stretch
from cluster.cost.ops import Convolutions
from cluster.cost.parts import Model, make_model
from cluster.cost.seconds import Device, MicroSeconds, StepSeconds, around, device_of, micro_seconds, step_seconds
from cluster.cost.states import States, states
from cluster.cost.traffic import Message, batches, control, counts, data_parallel, group_sizes, tensor_parallel
from cluster.cost.work import passes, useful_flops
from configs.encoders import Cnn
from configs.schema import TrainRecipe
from configs.site import HardwareConfig

GB = 1e9


@dataclass(frozen=True)
class Setting:
    """How a recipe is spread: what a search varies."""

    ranks: int
    tp: int
    zero: int
    rows_per_rank: int
    recompute: bool = False
    """Activation checkpointing of blocks. The trainer has no key for it yet."""
    shorter: float = 1.0
    """Factor on the length of a row."""

    @property
    def dp(self) -> int:
        return self.ranks // self.tp


@dataclass(frozen=True)
class Estimate:
    """Everything about one setting. Bytes are of one rank, seconds of one optimizer step."""

    setting: Setting
    model: Model
    micro_steps: int
    states: States
    activations: Activations
    gathers: Gathers | None
    memory: dict[str, float]
    capacity: float
    messages: list[Message]
    micro: MicroSeconds
    seconds: StepSeconds
    flops: dict[str, dict[str, float]]
    useful: float
    tokens: float
    """Real tokens of a step."""
    peak: float
    """FLOP/s of all ranks together."""

    @property
    def used(self) -> float:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.used <= self.capacity

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds.total

    @property
    def mfu(self) -> float:
        return self.useful / self.seconds.total / self.peak


@dataclass(frozen=True)
class Estimator:
    """A recipe, its rows and a site; `run` costs a setting.

    Args:
        vocabulary: the tokenizer's.
        math, attention: dtypes of matrix products and of attention on the site.
    """

    recipe: TrainRecipe
    hardware: HardwareConfig
    vocabulary: int
    rows: Rows
    math: str = "bf16"
    attention: str = "bf16"

    @property
    def setting(self) -> Setting:
        """The recipe's own, on one rank for each of its `parallel.ranks`."""
        parallel = self.recipe.parallel
        return Setting(parallel.ranks, parallel.tp, parallel.zero, parallel.rows_per_rank)

    @cached_property
    def numbers(self) -> Numbers:
        size = {"bf16": 2, "fp32": 4}
        weight = size[self.recipe.parallel.precision]
        return Numbers(weight, size[self.math], size[self.attention], self.hardware.kind == "gpu")

    @cached_property
    def _models(self) -> Any:
        recipe = self.recipe
        return lru_cache(None)(
            lambda tp: make_model(recipe.model, self.vocabulary, tp, recipe.stage.train, recipe.data.cache_features)
        )

    def model(self, tp: int) -> Model:
        made: Model = self._models(tp)
        return made

    def devices_per_node(self, ranks: int) -> int:
        """Ranks on one node: on a CPU site all of a job that has one node."""
        hardware = self.hardware
        return min(ranks, hardware.devices_per_node) if hardware.kind == "gpu" else max(1, ranks)

    def share(self, ranks: int) -> float:
        """Devices that one rank has: on a CPU site ranks share out the cores of a node."""
        return 1.0 if self.hardware.kind == "gpu" else self.hardware.devices_per_node / max(1, ranks)

    def device(self, ranks: int) -> Device:
        return device_of(self.hardware, self.math, self.attention, self.share(ranks))

    def micro(self, setting: Setting, load: Load) -> MicroSeconds:
        """Seconds of compute of one micro-step."""
        made = passes(self.model(setting.tp), load, self.numbers)
        return micro_seconds(made, self.device(setting.ranks), setting.recompute)

    def run(self, setting: Setting) -> Estimate:
        """Cost one setting. TP must divide the ranks and the decoder's heads."""
        recipe, hardware, numbers = self.recipe, self.hardware, self.numbers
        model, dp, tp = self.model(setting.tp), setting.dp, setting.tp
        rows_per_step = recipe.data.packing.rows_per_step
        micro_steps = ceil(rows_per_step / (dp * setting.rows_per_rank))
        mean = self.rows.micro(setting.rows_per_rank).scaled(setting.shorter)
        heavy = self.rows.heavy(setting.rows_per_rank).scaled(setting.shorter)
        gathered = gathers(model, dp, recipe.parallel.persistence_threshold) if setting.zero == 3 else None
        held = states(
            model.weights,
            setting.zero,
            dp,
            tp,
            numbers.weight,
            micro_steps=micro_steps,
            overlap=hardware.kind == "gpu",
            buckets_whole=hardware.kind == "gpu",
        )
        kept = activations(model, heavy, numbers)
        messages = self.messages(setting, mean, micro_steps, gathered)
        micro = self.micro(setting, mean)
        mine = sum(p.weight.local(tp) for p in model.weights if p.trained)
        updated = mine / (dp if setting.zero else 1)
        seconds = step_seconds(
            micro,
            micro_steps,
            messages,
            hardware,
            self.device(setting.ranks),
            tp,
            dp,
            self.devices_per_node(setting.ranks),
            updated,
            self.imbalance(setting),
            around(model, hardware, setting.zero, dp),
        )
        row = self.rows.mean.scaled(setting.shorter)
        return Estimate(
            setting,
            model,
            micro_steps,
            held,
            kept,
            gathered,
            self._memory(held, kept, gathered, setting),
            hardware.memory_gb * GB * self.share(setting.ranks),
            messages,
            micro,
            seconds,
            self._flops(model, mean, setting, micro_steps),
            useful_flops(model, row, self.vocabulary) * rows_per_step,
            row.text.real * rows_per_step,
            self.device(setting.ranks).peak * setting.ranks,
        )

    def messages(self, setting: Setting, load: Load, micro_steps: int, gathered: Gathers | None) -> list[Message]:
        """Collectives of one optimizer step on one rank."""
        model, dp, tp, weight = self.model(setting.tp), setting.dp, setting.tp, self.numbers.weight
        patch, channel, pixels = self._picture_bytes()
        often = tensor_parallel(model, load, self.numbers) + batches(load, patch, channel, pixels, tp)
        made = [replace(m, payload=m.payload * micro_steps, calls=m.calls * micro_steps) for m in often]
        made += data_parallel(model, setting.zero, dp, micro_steps, weight, gathered)
        groups = len(group_sizes(model.weights, dp, tp))
        return made + control(setting.zero, tp, dp, groups, weight) + counts(setting.ranks)

    def _picture_bytes(self) -> tuple[float, float, float]:
        """Bytes of a patch, of an output that is cached, and of a CNN's pixels for one cell."""
        encoder = self.recipe.model.encoder
        if not isinstance(encoder, Cnn):
            return 3.0 * encoder.patch**2, 0.0, 0.0
        if self.recipe.data.cache_features:
            return 0.0, 2.0 * channels(encoder) * self.recipe.model.merge**2, 0.0
        return 0.0, 0.0, 3.0 * encoder.patch**2

    def _memory(self, held: States, kept: Activations, gathered: Gathers | None, setting: Setting) -> dict[str, float]:
        numbers, hardware = self.numbers, self.hardware
        whole = gathered.peak * numbers.weight if gathered is not None and setting.dp > 1 else 0.0
        outside = sum(
            op.elements * 4.0 for m in self.model(setting.tp).modules for op in m.ops if isinstance(op, Convolutions)
        )
        act = kept.recomputed if setting.recompute else kept.total
        items = {
            "weights": float(held.weights),
            "gradients": float(held.gradients),
            "optimizer": float(held.optimizer),
            "gradient bucket": float(held.bucket),
            "gathered weights": float(whole),
            "activations": act,
            "passing buffers": kept.spike,
            "frozen network": outside,
            "fragmentation": hardware.fragmentation * (act + kept.spike + whole),
            "reserved": hardware.reserved_gb * GB,
        }
        return {name: size for name, size in items.items() if size}

    def _flops(self, model: Model, load: Load, setting: Setting, micro_steps: int) -> dict[str, dict[str, float]]:
        """Part -> FLOPs that all ranks compute in a step, forward and backward."""
        table: dict[str, dict[str, float]] = {}
        for one in passes(model, load, self.numbers):
            row = table.setdefault(one.part, {"forward": 0.0, "backward": 0.0})
            times = one.count * micro_steps * setting.ranks
            ahead = sum(k.matrix + k.attention for k in one.forward) * times
            row["forward"] += ahead * (2 if setting.recompute and one.block and one.backward else 1)
            row["backward"] += sum(k.matrix + k.attention for k in one.backward) * times
        return table

    def imbalance(self, setting: Setting) -> float:
        """Mean over micro-steps of the slowest DP rank's compute over the mean one's, less one."""
        rows, dp, each = self.rows.features, setting.dp, setting.rows_per_rank
        if dp == 1 or len(rows) < dp * each:
            return 0.0
        base, slopes = self.slopes(setting)
        costs = [sum(s * f for s, f in zip(slopes, row, strict=True)) for row in rows]
        ranks = [base + sum(costs[i : i + each]) for i in range(0, len(costs) - each + 1, each)]
        slowest = mean = 0.0
        for start in range(0, len(ranks) - dp + 1, dp):
            group = ranks[start : start + dp]
            slowest += max(group)
            mean += sum(group) / dp
        return slowest / mean - 1 if mean else 0.0

    def slopes(self, setting: Setting) -> tuple[float, list[float]]:
        """Seconds of a micro-step = base + slopes x features of its rows (cluster/cost/load.py), linear around the mean."""
        mean = self.rows.micro(setting.rows_per_rank)
        text, patches = mean.text, mean.patches
        changed = [
            replace(mean, text=_more(text, ("gathered", "pairs", "useful"))),
            replace(
                mean,
                patches=_more(patches, ("positions", "real", "gathered")),
                windows=mean.windows.scaled(STEP),
                cells=mean.cells * STEP,
            ),
            replace(mean, patches=_more(patches, ("pairs", "useful"))),
            replace(mean, outputs=mean.outputs * STEP, views=mean.views * STEP),
            replace(mean, labels=mean.labels * STEP),
        ]
        whole = self.micro(setting, mean).total
        values = (text.pairs, patches.positions, patches.pairs, mean.outputs, mean.labels)
        slopes = [
            (self.micro(setting, load).total - whole) / ((STEP - 1) * value) if value else 0.0
            for load, value in zip(changed, values, strict=True)
        ]
        return whole - sum(s * v for s, v in zip(slopes, values, strict=True)), slopes


STEP = 1.1


def _more(stretch: Stretch, fields: tuple[str, ...]) -> Stretch:
    return replace(stretch, **{name: getattr(stretch, name) * STEP for name in fields})
