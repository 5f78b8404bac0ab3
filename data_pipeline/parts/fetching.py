"""All remote parts of a command: what is lacking, whether there is room, the downloads, and a name for each when it is whole."""

import asyncio
import contextlib
import importlib.util
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from configs.errors import RunError, UserError
from data_pipeline.parts import cache
from data_pipeline.parts.cache import Scope
from data_pipeline.parts.download import CONNECT_SECONDS, SILENCE_SECONDS, Wanted, bring
from data_pipeline.parts.hub import Listed, list_part, token
from data_pipeline.parts.name import Hub, Package, Part, Url
from data_pipeline.parts.wheel import fetch_wheel

AT_ONCE = 4
COMMIT = re.compile(r"[0-9a-f]{40}")
SPARE_BYTES = 64 << 20


@dataclass
class Fetched:
    """What became of one part."""

    part: str
    state: str
    """`here`: it was in the cache; `installed`: a package of this environment; `fetched`; `would fetch`."""
    path: str = ""
    files: int = 0
    bytes: int = 0
    """Of all its files; 0 where they are not known before they come."""


@dataclass
class _Job:
    """A part that has to be asked for."""

    part: Part
    scope: Scope
    commit: str = ""
    files: list[Listed] = field(default_factory=list)
    lacking: list[Wanted] = field(default_factory=list)
    told: Fetched = field(default_factory=lambda: Fetched("", ""))


def fetch_parts(
    asked: Sequence[tuple[Part, Scope]], *, pickle: bool, dry_run: bool, seconds: float, progress: bool
) -> list[Fetched]:
    """Bring parts into the cache; what is there already is not asked for again.

    Args:
        seconds: after which it ends; what came by then is kept.
    Raises:
        UserError: a part does not exist, may not be read, is not what was promised, or there is no room for it.
        RunError: the network or a server failed, or the time is over.
    """
    end = time.monotonic() + seconds
    jobs = [_look(part, scope, pickle) for part, scope in dict.fromkeys(asked)]
    urls = [job for job in jobs if isinstance(job.part, Url) and job.told.state == "fetched"]
    with _bounded(seconds):
        asyncio.run(_within(_sizes(urls), end))
    lacking = {wanted.key: wanted for job in jobs for wanted in job.lacking}
    if dry_run:
        for job in jobs:
            job.told.state = "would fetch" if job.told.state == "fetched" else job.told.state
        return [job.told for job in jobs]
    _check_room(sum(wanted.size or 0 for wanted in lacking.values()))
    with _bounded(seconds):
        found = asyncio.run(_within(_bring_all(list(lacking.values()), progress), end))
    for job in jobs:
        _name(job, found, end)
    return [job.told for job in jobs]


def _look(part: Part, scope: Scope, pickle: bool) -> _Job:
    """Whether a part is here; else what it is made of."""
    if isinstance(part, Package) and importlib.util.find_spec(part.name) is not None:
        return _Job(part, scope, told=Fetched(str(part), "installed"))
    fixed = not isinstance(part, Hub) or COMMIT.fullmatch(part.revision)
    path = cache.find_part(part, scope) if fixed else None
    if path is not None:
        held = list(path.iterdir()) if path.is_dir() else [path]
        size = sum(entry.stat().st_size for entry in held)
        return _Job(part, scope, told=Fetched(str(part), "here", str(path), len(held), size))
    job = _Job(part, scope, told=Fetched(str(part), "fetched"))
    if isinstance(part, Hub):
        job.commit, job.files = list_part(part, scope, pickle)
        secret, known = token(), _links(part, job.commit)
        job.lacking = [_wanted(part, file, secret) for file in job.files if not _held(known / file.name, file)]
        job.told.files, job.told.bytes = len(job.files), sum(file.size for file in job.files)
        if not job.lacking:
            job.told.state = "here"
    return job


def _links(hub: Hub, commit: str) -> Path:
    return cache.root() / "hub" / cache.repository(hub.repo) / commit


def _held(link: Path, file: Listed) -> bool:
    return link.exists() and link.stat().st_size == file.size


def _wanted(hub: Hub, file: Listed, secret: str | None) -> Wanted:
    key = file.sha256 or file.git_sha1 or cache.url_key(file.url)
    return Wanted(f"{hub.repo}:{file.name}", file.url, key, file.size, file.sha256, file.git_sha1, token=secret)


async def _sizes(jobs: Sequence[_Job]) -> None:
    """Ask web servers how large their files are, and by what a resumed download can tell that they are the same."""
    if not jobs:
        return
    async with _session() as session:
        for job in jobs:
            assert isinstance(job.part, Url)
            url, size, validator = job.part.url, None, None
            with contextlib.suppress(
                *_no_answer()
            ):  # some servers know no HEAD: the download itself will say what is wrong
                async with session.head(url, allow_redirects=True, headers={"Accept-Encoding": "identity"}) as response:
                    if response.status == 200:
                        size = response.content_length
                        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if validator is not None and validator.startswith("W/"):
                validator = None  # a weak one says nothing about bytes
            key = job.part.sha256 or cache.url_key(f"{url} {validator} {size}")
            job.lacking = [Wanted(url, url, key, size, job.part.sha256, validator=validator)]
            job.told.files, job.told.bytes = 1, size or 0


def _no_answer() -> tuple[type[BaseException], ...]:
    import aiohttp

    return (aiohttp.ClientError, TimeoutError)


def _session() -> Any:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    return aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False)


async def _bring_all(wanted: Sequence[Wanted], progress: bool) -> dict[str, tuple[Path, str, int]]:
    """Each key's blob, sha256 and size; a few at a time. The first failure ends the others, whose bytes are kept."""
    if not wanted:
        return {}
    total = sum(file.size or 0 for file in wanted)
    gate = asyncio.Semaphore(AT_ONCE)
    with tqdm(total=total, unit="B", unit_scale=True, desc="fetch", disable=None if progress else True) as bar:
        async with _session() as session:

            async def one(file: Wanted) -> tuple[Path, str, int]:
                blob = None if file.sha256 is None else cache.blob(file.sha256)
                if blob is not None and blob.exists() and blob.stat().st_size == (file.size or blob.stat().st_size):
                    bar.update(blob.stat().st_size)
                    return blob, blob.name, blob.stat().st_size
                async with gate:
                    return await bring(file, session, bar.update)

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(file)) for file in wanted]
            except* (UserError, RunError) as failed:
                raise failed.exceptions[0] from None
            return {file.key: task.result() for file, task in zip(wanted, tasks, strict=True)}


def _name(job: _Job, found: dict[str, tuple[Path, str, int]], end: float) -> None:
    """Links to what came; a repository's revision is noted when all of it is here."""
    if job.told.state not in ("fetched", "here") or (job.told.state == "here" and not job.commit):
        return
    if isinstance(job.part, Hub):
        at = ("hub", cache.repository(job.part.repo), job.commit)
        by_label = {wanted.label: wanted.key for wanted in job.lacking}
        for file in job.files:
            key = by_label.get(f"{job.part.repo}:{file.name}")
            if key is not None:
                cache.link(found[key][0], *at, *file.name.split("/"))
        cache.note(job.part, job.commit, [cache.needed(job.part, job.scope)])
        path = cache.find_part(job.part, job.scope)
        assert path is not None
        job.told.path = str(path)
    elif isinstance(job.part, Url):
        target, _, job.told.bytes = found[job.lacking[0].key]
        job.told.path = str(cache.link(target, "urls", cache.url_key(job.part.url), cache.url_file(job.part.url)))
    else:
        wheel, size = fetch_wheel(job.part, max(1.0, end - time.monotonic()))
        job.told.path, job.told.files, job.told.bytes = str(wheel), 1, size


def _check_room(size: int) -> None:
    free = shutil.disk_usage(cache.folder()).free
    if size + SPARE_BYTES > free:
        raise UserError(
            f"{cache.root()} has {free / 1e9:.1f} GB free and {size / 1e9:.1f} GB are to come: free some, or set LOOKSAY_CACHE"
        )


async def _within(work: Any, end: float) -> Any:
    async with asyncio.timeout(max(0.0, end - time.monotonic())):
        return await work


@contextlib.contextmanager
def _bounded(seconds: float) -> Any:
    try:
        yield
    except TimeoutError:
        raise RunError(
            f"the parts did not come within {seconds:.0f} s: what came is kept, the same command goes on"
        ) from None
    except PermissionError as error:
        raise UserError(f"{error.filename} may not be written: set LOOKSAY_CACHE to a folder of yours") from None
