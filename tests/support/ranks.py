"""What a pool's rank knows of itself."""

from cluster.place import Place


def place_of(rank: int, ranks: int) -> Place | None:
    """Rank `rank` of `ranks` on this machine; the group meets through a file, so there is no port."""
    return Place(rank, ranks, rank, ranks, 0, "127.0.0.1", 0, "pool")


def forget_models() -> None:
    """DeepSpeed numbers modules and parameters from the process's start, and ZeRO-3 compares the numbers over ranks.

    A pool's ranks have served different calls before; so each call counts from zero again.
    """
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
    from deepspeed.runtime.zero.partition_parameters import Init

    DeepSpeedZeRoOffload._register_deepspeed_module.__defaults__[0][0] = 0  # type: ignore[attr-defined]
    Init.param_id = 0
