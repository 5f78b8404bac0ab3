"""The copy out of live tensors, made in the shadow of the next step.

Weights and moments change only in the optimizer's update. So a checkpoint is copied by a thread while the next
forward and backward run, and training waits for it (`wait`) only before the next update. On a GPU the copy goes
over a stream of its own into pinned memory. The buffer is made once and used again: extra memory is one rank's own state.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.checkpoint.files import NAMES, Part
from pretrain.checkpoint.geometry import Span
from pretrain.mesh import copy_beside, device_mark

ALIGNMENT = 64
Live = tuple[str, str, Span, Tensor]
"""kind, logical name, span, and the live flat view."""


def parts_of(live: Sequence[Live]) -> list[Part]:
    """Where each view goes in a buffer."""
    parts, at = [], 0
    for kind, name, span, view in live:
        if view.dtype not in NAMES:
            raise TypeError(f"{kind} of {name} is {view.dtype}, which a checkpoint does not hold")
        size = view.numel() * view.element_size()
        parts.append(Part(kind, name, span, view.dtype, at, size))
        at += -(-size // ALIGNMENT) * ALIGNMENT
    return parts


class Staging:
    """A host buffer with room for what this rank holds, filled from live views in the background."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._done = threading.Event()
        self._done.set()
        self._failed: BaseException | None = None
        self.parts: list[Part] = []

    def begin(self, live: Sequence[Live]) -> None:
        """Start to copy; nothing may change the views until `wait` returns."""
        parts = parts_of(live)
        at = parts[-1].offset + parts[-1].size if parts else 0
        pinned = any(view.is_cuda for *_, view in live)
        if self._buffer is None or self._buffer.numel() < at or self._buffer.is_pinned() != pinned:
            self._buffer = torch.empty(max(at, 1), dtype=torch.uint8, pin_memory=pinned)
        self.parts, self._failed = parts, None
        self._done.clear()
        views = [view.detach() for *_, view in live]
        ready = device_mark() if pinned else None
        threading.Thread(target=self._copy, args=(views, ready), name="checkpoint-copy", daemon=True).start()

    def _copy(self, views: list[Tensor], ready: Any) -> None:
        try:
            assert self._buffer is not None
            if ready is not None:
                targets = [self._buffer[part.offset : part.offset + part.size] for part in self.parts]
                copy_beside(ready, [(t, view.view(torch.uint8)) for t, view in zip(targets, views, strict=True)])
                return
            target = self._buffer.numpy()
            for part, view in zip(self.parts, views, strict=True):
                # numpy lets other threads run while it copies, and starts none.
                np.copyto(target[part.offset : part.offset + part.size], view.view(torch.uint8).numpy())
        except BaseException as error:
            self._failed = error
        finally:
            self._done.set()

    def wait(self) -> float:
        """Until the copy is whole. Returns the seconds that were waited.

        Raises whatever the copy met.
        """
        begun = time.perf_counter()
        self._done.wait()
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        return time.perf_counter() - begun

    def data(self, part: Part) -> memoryview:
        """The copied bytes of a part."""
        assert self._buffer is not None
        return memoryview(self._buffer.numpy())[part.offset : part.offset + part.size]
