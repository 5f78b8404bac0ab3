"""What a pool's rank knows of itself."""

from cluster.place import Place


def place_of(rank: int, ranks: int) -> Place | None:
    """Rank `rank` of `ranks` on this machine; the group meets through a file, so there is no port."""
    return Place(rank, ranks, rank, ranks, 0, "127.0.0.1", 0, "pool")
