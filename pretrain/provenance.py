"""Where a result came from: commit, versions of what matters, Python, system."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "looksay",
    "torch",
    "deepspeed",
    "megatron-core",
    "ray",
    "webdataset",
    "numpy",
    "pillow",
    "pyarrow",
    "tokenizers",
    "safetensors",
)


def provenance() -> dict[str, object]:
    """{commit, versions, python, system}; commit is None outside a git checkout."""
    return {
        "commit": _commit(),
        "versions": _versions(),
        "python": sys.version.split()[0],
        "system": platform.platform(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
