"""Refreshes report.html while a demo goes on, from its second minute."""

import logging
import threading
from pathlib import Path
from types import TracebackType

from pretrain.report.page import write_report

log = logging.getLogger(__name__)
FIRST_SECONDS, EVERY_SECONDS = 60.0, 15.0


class Refresher:
    """`with Refresher(root): ...` rewrites ROOT/report.html now and then. A failure to write it never stops the work."""

    def __init__(self, root: Path):
        self.root = root
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Refresher":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        wait = FIRST_SECONDS
        while not self._over.wait(wait):
            wait = EVERY_SECONDS
            try:
                write_report([self.root])
            except Exception as error:  # files appear and change under us; the page is only a view
                log.warning("the report could not be refreshed: %s", error)
