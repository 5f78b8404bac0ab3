"""What a part of a model is made of, as plain descriptions; every cost is derived from these.

A new part is one function that lists its operations (see `vit.py`) and one entry in `parts.py`. Legend: N positions of an
operation: those of its stream (`on`, else its module's) x `times` + `beside` for each view.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

Cut = Literal["whole", "column", "row", "partial"]
"""How TP cuts a linear: not at all; its outputs; its inputs; or not, while each rank has a part of its gradient."""
Kind = Literal["rms", "rms_zero_centered", "layer"]
Stream = Literal["patches", "cells", "outputs", "views", "once", "text", "inner", "outer", "newlines", "labels"]
"""What an operation runs over: patches and class tokens; patches; what the encoder makes; views; one; positions of rows;
those that a visual expert serves, and the others; newlines; learned positions."""


@dataclass(frozen=True)
class Weight:
    """A parameter: logical name, whole shape, and the axis that TP cuts."""

    name: str
    shape: tuple[int, ...]
    axis: int | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)

    def local(self, tp: int) -> int:
        """Elements on one TP rank."""
        return self.size if self.axis is None else self.size // tp

    @property
    def decays(self) -> bool:
        """Weight decay is for matrices, embeddings left out: AdamW's groups are made of it (pretrain/optim.py)."""
        return len(self.shape) > 1 and "embedding" not in self.name


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Where an operation stands.

    `at` orders its weights among those of its module, where the real module has them in another order than they run in;
    `aside`: what comes out is read by the next attention alone (keys and values of another stream).
    """

    on: Stream | None = None
    times: int = 1
    beside: int = 0
    at: int = 0
    aside: bool = False

    @property
    def dangling(self) -> bool:
        """Its weight leaves its module as it is: ZeRO-3 then keeps it whole until the optimizer step."""
        return False

    def weights(self) -> tuple[Weight, ...]:
        return ()


@dataclass(frozen=True)
class Linear(Operation):
    """[N, inputs] -> [N, outputs].

    `first`: of linears that share an input; `kept`: nothing else keeps that input; `alike`: it is the same for all views.
    """

    name: str
    inputs: int
    outputs: int
    cut: Cut = "whole"
    bias: bool = False
    first: bool = True
    kept: bool = True
    alike: bool = False

    def weights(self) -> tuple[Weight, ...]:
        axis = {"column": 0, "row": 1}.get(self.cut)
        made = (Weight(f"{self.name}.weight", (self.outputs, self.inputs), axis),)
        return (*made, Weight(f"{self.name}.bias", (self.outputs,), 0 if axis == 0 else None)) if self.bias else made


@dataclass(frozen=True)
class Norm(Operation):
    """RMSNorm or LayerNorm over `width`, in fp32.

    `kept`: its input is there anyway if it is fp32 already: a weight (the same for all views), or what others norm too.
    """

    name: str
    width: int
    kind: Kind = "rms"
    kept: Literal["", "weight", "math"] = ""

    def weights(self) -> tuple[Weight, ...]:
        made = (Weight(f"{self.name}.weight", (self.width,)),)
        return (*made, Weight(f"{self.name}.bias", (self.width,))) if self.kind == "layer" else made


@dataclass(frozen=True)
class HeadNorm(Operation):
    """RMSNorm of `heads` heads of `width` each, with one weight for all (`cut`: TP ranks hold other heads)."""

    name: str
    width: int
    heads: int
    cut: bool

    def weights(self) -> tuple[Weight, ...]:
        return (Weight(f"{self.name}.weight", (self.width,)),)


@dataclass(frozen=True)
class Attend(Operation):
    """Attention inside segments. `rotated`: queries and keys are rotated first; `cut`: heads are shared out over TP;
    `windows`: inside windows of a view."""

    heads: int
    kv_heads: int
    head: int
    causal: bool
    cut: bool
    rotated: bool = True
    windows: bool = False


@dataclass(frozen=True)
class Cross(Operation):
    """N queries on the keys of their view: the encoder's outputs, and `own` more (the queries themselves).

    `shared`: all views have the same queries.
    """

    heads: int
    head: int
    own: int = 0
    reads: bool = True
    """It reads the encoder's outputs; else the queries look at each other alone."""
    shared: bool = False


@dataclass(frozen=True)
class Activation(Operation):
    """Activation of [N, width]; `gated` multiplies it with a second input."""

    kind: str
    width: int
    gated: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Scale(Operation):
    """A learned factor on what a branch adds."""

    name: str
    width: int

    @property
    def dangling(self) -> bool:
        return True

    def weights(self) -> tuple[Weight, ...]:
        return (Weight(self.name, (1, self.width)),)


@dataclass(frozen=True)
class Lookup(Operation):
    """Token embedding; a tied head uses the same weight later (see Loss)."""

    name: str
    vocabulary: int
    width: int

    def weights(self) -> tuple[Weight, ...]:
        return (Weight(f"{self.name}.weight", (self.vocabulary, self.width), 0),)


@dataclass(frozen=True)
class Repeated(Operation):
    """Learned rows that are put into or added to a stream. `looked_up`: bytes of the indices of one position; 0: as they are."""

    name: str
    width: int
    rows: int = 1
    looked_up: int = 0

    @property
    def dangling(self) -> bool:
        return not self.looked_up

    def weights(self) -> tuple[Weight, ...]:
        return (Weight(self.name, (self.rows, self.width)),)


@dataclass(frozen=True)
class Places(Operation):
    """Positions of a grid of `side` x `side`, added to patches; with `token` a class token before each view.

    `nearest`: a view of another grid takes the nearest ones; else they are interpolated.
    """

    side: int
    width: int
    token: bool
    nearest: bool = False

    def weights(self) -> tuple[Weight, ...]:
        rows = self.side**2 + self.token
        made = (Weight("positions.weight", (rows, self.width)),)
        return (*made, Weight("class_token", (1, self.width))) if self.token else made


@dataclass(frozen=True)
class Loss(Operation):
    """Logits [K, vocabulary] of learned positions and their cross-entropy; `name`: a head of its own, none: tied."""

    name: str | None
    vocabulary: int
    width: int

    def weights(self) -> tuple[Weight, ...]:
        return () if self.name is None else (Weight(f"{self.name}.weight", (self.vocabulary, self.width), 0),)


@dataclass(frozen=True)
class Convolutions(Operation):
    """A frozen network of convolutions outside the trained parameters, fp32, whole on every rank.

    `elements` are what it holds (batch norms folded in), `flops` forward for one cell of `pixels` pixels.
    """

    elements: int
    flops: float
    pixels: int = 32 * 32


Op = Linear | Norm | HeadNorm | Attend | Cross | Activation | Scale | Lookup | Repeated | Places | Loss | Convolutions


@dataclass(frozen=True)
class Module:
    """Operations that run together, in the order in which they run.

    `leaf`: ZeRO-3 gathers all its parameters at once; else each operation's alone. `block`: width of its input where
    activation checkpointing would keep that alone; 0: no block.
    """

    name: str
    stream: Stream
    ops: tuple[Op, ...]
    leaf: bool = False
    block: int = 0

    def weights(self) -> tuple[tuple[Weight, ...], ...]:
        """Parameters of each operation, under their whole names."""
        return tuple(tuple(Weight(f"{self.name}.{w.name}", w.shape, w.axis) for w in op.weights()) for op in self.ops)
