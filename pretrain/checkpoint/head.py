"""Which checkpoints a run has, and who may add one: a chain of small files, each put only where none is. No torch.

    CHECKPOINTS/head/00000017.json     the whole state: generation, starts, committed checkpoints
    CHECKPOINTS/step-00000100.g00000012/   what one of them is made of

Only the highest whole version counts. Every start of a run takes the next version, whose number is its *generation*. To
commit is to put the version after the one that was read, if that one is still of one's own generation. Put-if-absent is
atomic on POSIX (link) and on S3 (If-None-Match), so of an old generation and a new one exactly one gets a number:
an old generation that a cut network kept alive can write files of its own, and commit nothing.
"""

import hashlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from configs.errors import NO_REQUEUE, RunError, UserError
from data_pipeline import storage

log = logging.getLogger(__name__)

SCHEMA = 2
KEPT_VERSIONS = 16
KEPT_STARTS = 32
NAME = re.compile(r"(\d{8})\.json")
FOLDER = re.compile(r"(step-\d{8}|frozen)\.g\d{8}")
MOST_BYTES = 16 << 20


class Fenced(RunError):
    """A newer start of the run has taken over: nothing of this one counts any more."""

    exit_code = NO_REQUEUE


@dataclass(frozen=True)
class Entry:
    """A committed checkpoint. `sha256` is of its files.json; `frozen` the folder of the frozen parameters it needs."""

    step: int
    generation: int
    folder: str
    sha256: str
    time: float
    frozen: str | None = None
    score: float | None = None
    """The validation loss, where there was a validation at this step."""


@dataclass(frozen=True)
class Start:
    """One start of the run: its generation, when and where, and the newest step there was."""

    generation: int
    time: float
    host: str
    pid: int
    step: int


@dataclass(frozen=True)
class Head:
    version: int = 0
    generation: int = 0
    starts: tuple[Start, ...] = ()
    entries: tuple[Entry, ...] = ()
    frozen: tuple[str, str] | None = None
    """Folder of the frozen parameters and the SHA-256 of its files.json."""

    @property
    def steps(self) -> list[int]:
        return sorted(entry.step for entry in self.entries)

    def entry(self, step: int) -> Entry | None:
        return next((entry for entry in self.entries if entry.step == step), None)

    def starts_in_vain(self) -> int:
        """How many starts there were since the last one that found a newer checkpoint than the one before."""
        newest, count = max(self.steps, default=0), 0
        for start in reversed(self.starts):
            if start.step != newest:
                break
            count += 1
        return count


class Heads:
    """The chain of a run's checkpoints folder (local, or s3://)."""

    def __init__(self, root: str):
        self.root = root
        self._folder = storage.join(root, "head")

    def read(self) -> Head:
        """The newest whole version; an empty one where there is none. A damaged version is named and passed over.

        Raises:
            UserError: it was written by a newer looksay.
        """
        versions = self._versions()
        for version in reversed(versions):
            try:
                return replace(self._parsed(version), version=versions[-1])
            except (OSError, ValueError, KeyError, TypeError) as error:
                if isinstance(error, UserError):
                    raise
                log.warning("%s is damaged (%s): passed over", self._path(version), error)
        return Head(version=versions[-1] if versions else 0)

    def claim(self) -> Head:
        """Begin a start of the run: the next version, whose number is the new generation."""
        while True:
            head = self.read()
            version = head.version + 1
            mine = Start(version, time.time(), socket.gethostname(), os.getpid(), max(head.steps, default=0))
            starts = (*head.starts, mine)[-KEPT_STARTS:]
            made = replace(head, version=version, generation=version, starts=starts)
            if self._put(made):
                return made

    def change(self, generation: int, how: Callable[[Head], Head]) -> Head:
        """Put a next version, made by `how` from the newest.

        Raises:
            Fenced: the newest is of another generation.
        """
        while True:
            head = self.read()
            if head.generation != generation:
                raise _fenced(self.root, generation, head)
            made = replace(how(head), version=head.version + 1)
            if not self._put(made):
                continue
            # The number may have been free because it was tidied away, which only happens far below the highest.
            top = self.read()
            if top.version >= made.version + KEPT_VERSIONS:
                storage.remove(self._path(made.version))
                raise _fenced(self.root, generation, top)
            self._tidy(made.version)
            return made

    def current(self, generation: int) -> bool:
        """Whether no newer start has taken over."""
        return self.read().generation == generation

    def _put(self, head: Head) -> bool:
        body = asdict(head)
        data = {"schema": SCHEMA, "head": body, "sha256": _digest(body)}
        return storage.put(self._path(head.version), json.dumps(data, indent=1).encode(), if_absent=True)

    def _parsed(self, version: int) -> Head:
        path = self._path(version)
        if storage.size_of(path) > MOST_BYTES:
            raise ValueError("it is larger than any head")
        data = json.loads(storage.read_bytes(path))
        check_schema(data, path)
        body: dict[str, Any] = data["head"]
        if _digest(body) != data["sha256"]:
            raise ValueError("its hash is another")
        body["starts"] = tuple(Start(**start) for start in body["starts"])
        body["entries"] = tuple(Entry(**entry) for entry in body["entries"])
        body["frozen"] = tuple(body["frozen"]) if body["frozen"] else None
        head = Head(**body)
        folders = [name for entry in head.entries for name in (entry.folder, entry.frozen) if name]
        if any(not FOLDER.fullmatch(name) for name in folders):
            raise ValueError("it names a folder that is none of ours")
        return head

    def _versions(self) -> list[int]:
        found = sorted(int(name[1]) for name in map(NAME.fullmatch, storage.listdir(self._folder)) if name)
        # A network file system may list what was there seconds ago; asking for a name does not lie.
        while found and storage.exists(self._path(found[-1] + 1)):
            found.append(found[-1] + 1)
        return found

    def _path(self, version: int) -> str:
        return storage.join(self._folder, f"{version:08d}.json")

    def _tidy(self, version: int) -> None:
        for old in self._versions():
            if old <= version - KEPT_VERSIONS:
                storage.remove(self._path(old))


def check_schema(data: Any, path: str) -> None:
    """Raises UserError where a file is of another version of the format, ValueError where it is not of the format."""
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise ValueError("it is not of this format")
    if data["schema"] != SCHEMA:
        newer = "newer" if data["schema"] > SCHEMA else "older"
        raise UserError(
            f"{path} has schema {data['schema']}, this looksay reads {SCHEMA}: it was written by a {newer} version, use that one"
        )


def kept(
    entries: Iterable[Entry], keep_last: int, keep_every: int | None = None, keep_best: bool = False
) -> tuple[Entry, ...]:
    """Which checkpoints stay: the last, multiples of `keep_every`, and the one with the lowest score."""
    ordered = sorted(entries, key=lambda entry: entry.step)
    chosen = set(ordered[-keep_last:])
    if keep_every:
        chosen |= {entry for entry in ordered if entry.step % keep_every == 0}
    scored = [entry for entry in ordered if entry.score is not None]
    if scored and keep_best:
        chosen.add(min(scored, key=lambda entry: (entry.score or 0.0, entry.step)))
    return tuple(entry for entry in ordered if entry in chosen)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _fenced(root: str, generation: int, head: Head) -> Fenced:
    newest = head.starts[-1] if head.starts else None
    who = f" on {newest.host} (process {newest.pid})" if newest else ""
    return Fenced(
        f"{root}: start {head.generation}{who} has taken this run over from start {generation}, which ends here; "
        "what it had not committed is trained again there"
    )
