"""Projectors with a fixed number of tokens a view: Q-Former, resampler, perceiver (pretrain/model/*.py of these names).

All are whole on every TP rank. Of each view there are `queries` rows of what they learn; keys and values come from the
encoder's outputs.
"""

from typing import Any

from cluster.cost.ops import Activation, Cross, Linear, Module, Norm, Op, Repeated
from configs.projectors import PerceiverProjector, QFormerProjector, ResamplerProjector

WIDER = 4
FEATURES: dict[str, Any] = {"on": "outputs", "aside": True}
"""Where keys and values of the encoder's outputs stand."""


# ---- Q-Former ------------------------------------------------------------------------------------------------


def qformer(config: QFormerProjector, channels: int, width: int) -> list[Module]:
    wide, count = config.width, config.queries
    once: dict[str, Any] = {"on": "once", "times": count}
    made = [
        Module("projector", "views", (Repeated("queries", wide, count, **once),)),
        Module("projector", "views", (Norm("norm", wide, "layer", kept="weight", **once),)),
    ]
    for n in range(config.layers):
        ops = _attention("own", config, wide, None, n == 0)
        if n % config.cross_every == 0:
            ops += _attention("cross", config, channels, FEATURES, n == 0)
        ops += [
            Linear("up", wide, config.mlp_width, bias=True, times=count),
            Activation(config.activation, config.mlp_width, times=count),
            Linear("down", config.mlp_width, wide, bias=True, times=count),
            Norm("norm", wide, "layer", times=count),
        ]
        made.append(Module(f"projector.layers.{n}", "views", tuple(ops)))
    return [*made, Module("projector", "views", (Linear("out", wide, width, bias=True, times=count),))]


def _attention(name: str, config: QFormerProjector, source: int, where: dict[str, Any] | None, first: bool) -> list[Op]:
    """norm(x + attention(x, source)).

    Args:
        where: keys and values of features; none: the queries' own.
        first: of all layers: its queries are alike in all views, and it keeps the features for the others.
    """
    wide, count = config.width, config.queries
    own = where is None
    place = where or {"times": count}
    return [
        Linear(f"{name}.q", wide, wide, bias=True, alike=first and own, times=count),
        Linear(f"{name}.k", source, wide, bias=True, first=not own, kept=first or own, **place),
        Linear(f"{name}.v", source, wide, bias=True, first=False, **place),
        Cross(config.heads, wide // config.heads, count if own else 0, reads=not own, times=count),
        Linear(f"{name}.out", wide, wide, bias=True, kept=False, times=count),
        Norm(f"{name}.norm", wide, "layer", times=count),
    ]


# ---- resampler -----------------------------------------------------------------------------------------------


def resampler(config: ResamplerProjector, channels: int, width: int) -> list[Module]:
    """Its parameters are listed in another order than they run in: `at`."""
    count = config.queries
    once: dict[str, Any] = {"on": "once", "times": count}
    ops: list[Op] = [
        Linear("inward", channels, width, on="outputs", at=2),
        Norm("norm_kv", width, "layer", on="outputs", at=4),
        Repeated("positions", width, count, at=1, **once),
        Repeated("queries", width, count, at=0, **once),
        Norm("norm_q", width, "layer", kept="weight", at=3, **once),
        Linear("q", width, width, bias=True, at=5, **once),
        Linear("k", width, width, bias=True, at=6, **FEATURES),
        Linear("v", width, width, bias=True, at=7, **FEATURES),
        Cross(config.heads, width // config.heads, times=count, shared=True),
        Linear("out", width, width, bias=True, kept=False, times=count, at=8),
        Norm("norm", width, "layer", times=count, at=9),
        Linear("outward", width, width, times=count, at=10),
    ]
    return [Module("projector", "views", tuple(ops))]


# ---- perceiver -----------------------------------------------------------------------------------------------


def perceiver(config: PerceiverProjector, channels: int, width: int) -> list[Module]:
    count = config.queries
    made = [
        Module("projector", "outputs", tuple(_gated("inward", channels, config.hidden or WIDER * width, width, {}))),
        Module("projector", "views", (Repeated("latents", width, count, on="once", times=count),)),
    ]
    for n in range(config.layers):
        made.append(Module(f"projector.layers.{n}", "views", tuple(_layer(config, width, first=n == 0))))
    return [*made, Module("projector", "views", (Norm("norm", width, times=count),))]


def _layer(config: PerceiverProjector, width: int, first: bool) -> list[Op]:
    count = config.queries
    wide, kv = config.heads * config.head_size, config.kv_heads * config.head_size
    both: dict[str, Any] = {**FEATURES, "beside": count}
    return [
        Norm("norm_latents", width, times=count, kept="weight" if first else ""),
        Norm("norm_features", width, kept="" if first else "math", **FEATURES),
        Linear("q", width, wide, times=count),
        Linear("k", width, kv, **both),
        Linear("v", width, kv, first=False, **both),
        Cross(config.heads, config.head_size, count, times=count),
        Linear("out", wide, width, kept=False, times=count),
        Norm("norm", width, times=count),
        *_gated("mlp", width, WIDER * width, width, {"times": count}),
    ]


def _gated(name: str, inputs: int, hidden: int, outputs: int, place: dict[str, Any]) -> list[Op]:
    return [
        Linear(f"{name}.gate", inputs, hidden, **place),
        Linear(f"{name}.up", inputs, hidden, first=False, **place),
        Activation("silu", hidden, gated=True, **place),
        Linear(f"{name}.down", hidden, outputs, **place),
    ]
