"""What a part of a model is made of, as plain descriptions; every cost is derived from these.

A new part is one function that lists its operations (see `vit.py`) and one entry in `parts.py`. Legend: N positions of an
operation's stream.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

Cut = Literal["whole", "column", "row", "partial"]
"""How TP cuts a linear: not at all; its outputs; its inputs; or not, while each rank has a part of its gradient."""


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


@dataclass(frozen=True)
class Linear:
    """[N, inputs] -> [N, outputs]. `first`: the first of those that share an input, whose copy backward needs."""

    name: str
    inputs: int
    outputs: int
    cut: Cut = "whole"
    bias: bool = False
    first: bool = True

    def weights(self) -> tuple[Weight, ...]:
        axis = {"column": 0, "row": 1}.get(self.cut)
        made = (Weight(f"{self.name}.weight", (self.outputs, self.inputs), axis),)
        return (*made, Weight(f"{self.name}.bias", (self.outputs,), 0 if axis == 0 else None)) if self.bias else made


@dataclass(frozen=True)
class Norm:
    """RMSNorm or LayerNorm over `width`, in fp32."""

    name: str
    width: int
    kind: Literal["rms", "layer"] = "rms"

    def weights(self) -> tuple[Weight, ...]:
        made = (Weight(f"{self.name}.weight", (self.width,)),)
        return made if self.kind == "rms" else (*made, Weight(f"{self.name}.bias", (self.width,)))


@dataclass(frozen=True)
class HeadNorm:
    """RMSNorm of `heads` heads of `width` each, with one weight for all (`cut`: TP ranks hold other heads)."""

    name: str
    width: int
    heads: int
    cut: bool

    def weights(self) -> tuple[Weight, ...]:
        return (Weight(f"{self.name}.weight", (self.width,)),)


@dataclass(frozen=True)
class Attend:
    """Attention inside segments; queries and keys are rotated first. `cut`: heads are shared out over TP."""

    heads: int
    kv_heads: int
    head: int
    causal: bool
    cut: bool

    def weights(self) -> tuple[Weight, ...]:
        return ()


@dataclass(frozen=True)
class Activation:
    """gelu or silu of [N, width]; `gated` multiplies it with a second input."""

    width: int
    gated: bool
    cut: bool

    def weights(self) -> tuple[Weight, ...]:
        return ()


@dataclass(frozen=True)
class Lookup:
    """Token embedding; with `head` the same weight makes logits later (see Loss)."""

    name: str
    vocabulary: int
    width: int

    def weights(self) -> tuple[Weight, ...]:
        return (Weight(f"{self.name}.weight", (self.vocabulary, self.width), 0),)


@dataclass(frozen=True)
class Repeated:
    """Learned rows that are put into or added to a stream as they are (a newline token, positions of a grid)."""

    name: str
    width: int
    rows: int = 1

    def weights(self) -> tuple[Weight, ...]:
        return (Weight(self.name, (self.rows, self.width)),)


@dataclass(frozen=True)
class Loss:
    """Logits [K, vocabulary] of learned positions and their cross-entropy; `name`: a head of its own, none: tied."""

    name: str | None
    vocabulary: int
    width: int

    def weights(self) -> tuple[Weight, ...]:
        return () if self.name is None else (Weight(f"{self.name}.weight", (self.vocabulary, self.width), 0),)


@dataclass(frozen=True)
class Convolutions:
    """A frozen network of convolutions outside the trained parameters, fp32, whole on every rank.

    `elements` are what it holds (batch norms folded in), `flops` forward for one output position.
    """

    elements: int
    flops: float

    def weights(self) -> tuple[Weight, ...]:
        return ()


Op = Linear | Norm | HeadNorm | Attend | Activation | Lookup | Repeated | Loss | Convolutions
Stream = Literal["patches", "views", "text", "newlines", "labels"]
"""What an operation runs over: patches; tokens that the encoder makes; positions of rows; newlines; learned positions."""


@dataclass(frozen=True)
class Module:
    """Operations that run together. `leaf`: ZeRO-3 gathers all its parameters at once; else each operation's alone."""

    name: str
    stream: Stream
    ops: tuple[Op, ...]
    leaf: bool = False

    def weights(self) -> tuple[Weight, ...]:
        """Parameters under their whole names, in the order in which the real module has them."""
        dot = f"{self.name}." if self.name else ""
        return tuple(Weight(dot + w.name, w.shape, w.axis) for op in self.ops for w in op.weights())
