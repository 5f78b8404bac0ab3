"""The paths of a recipe -> the files that are there, in order: globs, braces, folders of tables, `hf://` datasets.

A path is only ever opened: nothing is run, and a name that looks like a command (`pipe:`) is refused.
"""

import glob as _glob
import json
import os
import re
from collections.abc import Iterable

from configs.errors import UserError
from data_pipeline.ingest.sources.found import Found
from data_pipeline.storage import Stat, exists, glob, is_remote, join, read_range, stat_of

EMOJI = "package:emoji"
SCHEMES = frozenset({"s3", "gs", "gcs", "az", "abfs", "hf", "http", "https", "memory"})
"""Of paths that a person gives, beside local ones. Data may name fewer: `references.SCHEMES`."""

TABLES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".tar": "tar",
    ".json": "json",
}
"""Kind of file by ending (of texts also with .gz behind it), in the order in which a folder is looked through."""
TARS = {".tar": "tar"}
GZIPPED = frozenset({"csv", "tsv", "json", "jsonl"})
_WEB = ("http://", "https://")
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.zstd")
_STATE_BYTES = 2**20
_SPLIT = re.compile(r"(?<![A-Za-z])(train(?:ing)?|valid(?:ation)?|val|dev|test(?:ing)?)(?![A-Za-z])")
_SPLITS = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "testing": "test"}


def find_files(paths: Iterable[str], kinds: dict[str, str], format: str = "auto") -> list[Found]:
    """Files of these paths, each once, in the order of the paths, sorted within each.

    Args:
        kinds: kind by ending.
        format: the kind of all files; `auto`: by their endings.

    Raises:
        UserError: a path is missing or matches nothing, or a file's kind is not known.
    """
    stats: dict[str, tuple[Stat, str]] = {}
    bases = []
    for path in paths:
        base, found = _matching(path, kinds)
        bases.append(base)
        for stat in found:
            stats.setdefault(stat.path, (stat, kind_of(stat.path, kinds) if format == "auto" else format))
    common = _common(bases)
    return [Found(stat.path, _below(stat.path, common), kind, stat.size, stat.stamp) for stat, kind in stats.values()]


def kind_of(path: str, kinds: dict[str, str]) -> str:
    """Kind of a file by its ending. Raises UserError."""
    name = (path.split("?")[0] if path.startswith(_WEB) else path).lower()
    if name.endswith(_PACKED):
        raise UserError(
            f"{path} is a compressed tar: unpack it to a plain .tar first, so that members can be read in place"
        )
    stem, packed = (name[:-3], True) if name.endswith(".gz") else (name, False)
    kind = kinds.get(os.path.splitext(stem)[1])
    if kind is None or (packed and kind not in GZIPPED):
        endings = ", ".join(kinds) + (" (texts also with .gz)" if GZIPPED & {*kinds.values()} else "")
        raise UserError(f"{path} has an ending that I do not know: give one of {endings}, or set source.format")
    return kind


def check_path(path: str) -> None:
    """Refuse what is neither a file nor one of the known URLs. Raises UserError."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", path)
    if scheme is None or (not is_remote(path) and os.path.exists(path)):
        return
    if scheme[1] == "file":
        raise UserError(f"source.path {path} is a file: URL: write the path itself")
    if scheme[1] not in SCHEMES or not path[len(scheme[0]) :].startswith("//") or "::" in path:
        known = ", ".join(f"{name}://" for name in sorted(SCHEMES - {"memory"}))
        raise UserError(f"source.path {path} is not a path that is opened here: give a file, a glob or one of {known}")


def _matching(path: str, kinds: dict[str, str]) -> tuple[str, list[Stat]]:
    """The folder that names count from, and what a path stands for."""
    if path == EMOJI:
        path = emoji_path()
    check_path(path)
    if not is_remote(path) and os.path.isfile(path):
        return os.path.dirname(os.path.abspath(path)), [stat_of(os.path.abspath(path))]
    if is_folder(path, kinds):
        return _in_folder(path, kinds)
    pattern = path if is_remote(path) else os.path.abspath(path)
    # A URL's `?` is no wildcard.
    found = [stat_of(path)] if path.startswith(_WEB) and exists(path) else glob(pattern)
    if not found:
        magic = _glob.has_magic(path) or "{" in path
        what = "matches no file" if magic else "does not exist"
        raise UserError(f"source.path {path} {what}: give {_wanted(path, kinds)}")
    plain = re.split(r"[*?\[{]", pattern)[0]
    return plain.rsplit("/", 1)[0], found


def _wanted(path: str, kinds: dict[str, str]) -> str:
    if kinds is TARS:
        return "a tar, or a pattern such as x-{000..099}.tar"
    if path.endswith((".jsonl", ".ndjson")):
        return "a file with one JSON object a line"
    return f"a table (parquet, csv, tsv, json, jsonl, arrow), a pattern, or {EMOJI}"


def emoji_path() -> str:
    """The embedded emoji set."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return os.path.join(package, "assets", "fluent_emoji.parquet")


def is_folder(path: str, kinds: dict[str, str]) -> bool:
    if not is_remote(path):
        return os.path.isdir(path)
    if _glob.has_magic(path) or "{" in path or path.startswith(_WEB):
        return False
    name = path.lower().removesuffix(".gz")
    return os.path.splitext(name)[1] not in TABLES and not name.endswith(_PACKED)


def _in_folder(path: str, kinds: dict[str, str]) -> tuple[str, list[Stat]]:
    """Tables of a folder: the parts that `save_to_disk` names, else every file of the first kind that there is."""
    folder = path.rstrip("/") if is_remote(path) else os.path.abspath(path)
    if kinds is TABLES and not folder.startswith("hf://"):
        saved = _saved(path, folder)
        if saved:
            return folder, saved
    escaped = folder if is_remote(folder) else _glob.escape(folder)
    for ending in kinds:
        packed = [".gz"] if kinds[ending] in GZIPPED else []
        found = [stat for more in ["", *packed] for stat in glob(f"{escaped}/**/*{ending}{more}")]
        if found:
            _one_split(path, [_below(stat.path, folder) for stat in found])
            return folder, sorted(found)
    raise UserError(f"source.path {path} holds no file that ends in {', '.join(kinds)}: give another folder or a file")


def _saved(path: str, folder: str) -> list[Stat]:
    """Files of a Hugging Face `save_to_disk` folder; empty where it is none."""
    if exists(join(folder, "dataset_dict.json")):
        splits = _json(join(folder, "dataset_dict.json")).get("splits", [])
        names = ", ".join(str(name) for name in splits)
        raise UserError(
            f"source.path {path} holds the splits {names}: give one, for example {path.rstrip('/')}/{splits[0] if splits else 'train'}"
        )
    if not exists(join(folder, "state.json")):
        return []
    state = _json(join(folder, "state.json"))
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UserError(
            f"source.path {path} was saved with an index over its rows: load it, flatten_indices() and save it again"
        )
    out = []
    for item in state.get("_data_files") or []:
        name = item.get("filename") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name.endswith(".arrow") or "/" in name or "\0" in name:
            raise UserError(
                f"source.path {path}: state.json names {name!r}, which is no Arrow file of the folder: save it again"
            )
        try:
            out.append(stat_of(join(folder, name)))
        except FileNotFoundError:
            raise UserError(
                f"source.path {path} lacks {name}, which its state.json names: copy the whole folder"
            ) from None
    return out


def _json(path: str) -> dict:
    try:
        value = json.loads(read_range(path, 0, _STATE_BYTES))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object: save the dataset again")
    return value


def _one_split(path: str, names: list[str]) -> None:
    """Training rows and test rows are never mixed silently."""
    found = {_SPLITS.get(word, word) for name in names for word in _SPLIT.findall(name.lower())}
    if len(found) > 1:
        raise UserError(
            f"source.path {path} holds the splits {', '.join(sorted(found))}: "
            f"give one, for example {path.rstrip('/')}/**/*{sorted(found)[-1]}*"
        )


def _common(bases: list[str]) -> str:
    """The folder that all files are below; empty where there is none."""
    parts = [base.split("/") for base in bases]
    same = os.path.commonprefix(parts)  # noqa: RUF071  (of lists of names)
    return "/".join(same) if same and same != [""] else ""


def _below(path: str, folder: str) -> str:
    return path[len(folder) :].lstrip("/") if folder and path.startswith(folder) else path
