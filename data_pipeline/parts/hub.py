"""What a part on a hub is made of: files of a repository at a commit, with sizes and the hub's own checksums.

`huggingface_hub` asks the hub (its address: HF_ENDPOINT; the token: HF_TOKEN or `hf auth login`). The bytes are not its: its
cache is named by etags and does not check what arrived against the sha256 that the hub lists.
"""

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from configs.errors import RunError, UserError
from data_pipeline.parts.cache import Scope
from data_pipeline.parts.name import Hub

WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin|pytorch_model\.bin\.index\.json")
SMALL = re.compile(r"[^/]+\.(json|model|jinja|txt)|LICENSE[^/]*|NOTICE[^/]*")
TOKENIZER = re.compile(
    r"tokenizer[^/]*\.(json|model)|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template[^/]*"
)
MOST_SMALL = 64 << 20
"""Bytes of a file that is no weights: tokenizers have up to 33 MB."""
ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Listed:
    """A file of a repository; one of the checksums is known."""

    name: str
    url: str
    size: int
    sha256: str | None
    git_sha1: str | None


def endpoint() -> str:
    """Of the hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def token() -> str | None:
    """Of this user, if there is one. It goes to the hub alone, never into a message."""
    from huggingface_hub import get_token

    found: str | None = get_token()
    return found


def list_part(hub: Hub, scope: Scope, pickle: bool) -> tuple[str, list[Listed]]:
    """The commit of a revision, and the files that a part needs of it.

    Args:
        pickle: take `pytorch_model*.bin` where there are no safetensors.
    Raises:
        UserError: no such repository, revision or file, it may not be read, or it has nothing that can be used.
        RunError: the hub does not answer.
    """
    info = _ask(hub)
    listed = [_listed(hub, info.sha, sibling) for sibling in info.siblings or ()]
    return str(info.sha), _chosen(hub, scope, pickle, listed)


def _chosen(hub: Hub, scope: Scope, pickle: bool, listed: list[Listed]) -> list[Listed]:
    if hub.file is not None:
        found = [file for file in listed if file.name == hub.file]
        if not found:
            raise UserError(f"{hub} does not exist: {hub.repo} has {_some(listed)}")
        return found
    small = [file for file in listed if file.size <= MOST_SMALL]
    if scope == "tokenizer":
        chosen = [file for file in small if TOKENIZER.fullmatch(file.name)]
        if not chosen:
            raise UserError(f"{hub} has no tokenizer: it has {_some(listed)}")
        return chosen
    weights = [file for file in listed if WEIGHTS.fullmatch(file.name)]
    if not any(file.name.endswith(".safetensors") for file in weights):
        weights = [file for file in listed if PICKLED.fullmatch(file.name)]
        if weights and not pickle:
            raise UserError(
                f"{hub} has only pickled weights ({weights[0].name}), which may run code where they are read: add --pickle to "
                "fetch them, and import them with --convert-pickle"
            )
        if not weights:
            raise UserError(f"{hub} has no model.safetensors: name one file as {hub.repo}:FILE, of {_some(listed)}")
    return weights + [f for f in small if SMALL.fullmatch(f.name) and f not in weights and "index.json" not in f.name]


def _some(listed: list[Listed]) -> str:
    names = [file.name for file in listed]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "no files"


def _listed(hub: Hub, commit: str, sibling: Any) -> Listed:
    name, lfs = str(sibling.rfilename), sibling.lfs
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"{hub} lists a file {name!r} that lies outside it: it is not fetched")
    sha256 = str(lfs["sha256"]) if lfs else None
    if sibling.size is None or not re.fullmatch(r"[0-9a-f]{64}|", sha256 or ""):
        raise RunError(f"{endpoint()} lists {name} of {hub.repo} without a size or with no checksum: try again later")
    url = f"{endpoint()}/{hub.repo}/resolve/{quote(commit, safe='')}/{quote(name)}"
    return Listed(name, url, int(sibling.size), sha256, None if sha256 else sibling.blob_id)


def _ask(hub: Hub) -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub import errors as theirs

    try:
        api = HfApi(endpoint=endpoint())
        return api.model_info(hub.repo, revision=hub.revision, files_metadata=True, timeout=ANSWER_SECONDS)
    except theirs.GatedRepoError:
        raise UserError(
            f"{hub.repo} asks its readers to accept its terms: do so at {endpoint()}/{hub.repo}, and set HF_TOKEN"
        ) from None
    except theirs.RevisionNotFoundError:
        raise UserError(f"{hub.repo} has no revision {hub.revision!r}: give a branch, tag or commit of it") from None
    except theirs.RepositoryNotFoundError:
        raise UserError(
            f"{hub.repo} is not on {endpoint()}, or is private: check its name, and set HF_TOKEN where it is private"
        ) from None
    except theirs.OfflineModeIsEnabled:
        raise UserError(
            f"HF_HUB_OFFLINE is set, so {hub} cannot be asked for: unset it where there is a network"
        ) from None
    except Exception as error:  # the library's HTTP client has its own family of errors, which changed between releases
        if isinstance(error, UserError | RunError):
            raise
        raise RunError(f"{endpoint()} did not list {hub} ({type(error).__name__}): {network_remedy()}") from None


def network_remedy() -> str:
    """What to do where a hub does not answer."""
    where = urlsplit(endpoint()).hostname
    return f"run this where {where} can be reached, or set HF_ENDPOINT to a mirror"
