"""The decorator of compiled functions. Imports numba, so only what plans imports this."""

from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """The function compiled at its first call; kept for other processes where any directory can be written.

    numba keeps it beside the file, else in the user's cache, and raises where it can write to neither (an image that is
    read-only, a home that is missing): then each process that plans compiles for itself, some 5 seconds.
    """
    try:
        return njit(cache=True)(function)
    except RuntimeError:
        return njit(function)
