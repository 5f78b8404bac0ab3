"""What is installed, and whether it fits together: each package's own requirements, and the versions that were tested."""

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, version

from cluster.doctor.findings import Finding

TESTED = {
    "torch": "2.13.0",
    "deepspeed": "0.19.8",
    "megatron-core": "0.16.1",
    "ray": "2.60.0",
    "webdataset": "1.0.2",
    "s3fs": "2026.9.0",
    "numpy": "2.4.6",
    "pyarrow": "26.0.1",
    "tokenizers": "0.23.3",
    "safetensors": "0.8.0",
    "pillow": "13.0.0",
    "pydantic": "2.14.3",
}
"""Of constraints.txt (a test keeps them equal): what the tests run with."""
LEAST, MOST = (3, 11), (3, 13)
HOLDERS = ("looksay", "torch", "deepspeed", "megatron-core", "ray", "s3fs", "webdataset", "tokenizers")
"""Packages whose requirements are checked."""
INSTALL = "install again with `make install` (the versions of constraints.txt)"


def check_versions(
    python: tuple[int, int] = (sys.version_info.major, sys.version_info.minor), get: Callable[[str], str] = version
) -> Iterator[Finding]:
    """Python, the packages, and what their requirements say of each other."""
    name = f"{python[0]}.{python[1]}"
    if LEAST <= python <= MOST:
        yield Finding("python", "ok", f"{name} ({sys.executable})", figures={"version": name})
    else:
        yield Finding("python", "fail", f"{name} is not 3.11 to 3.13", "make the environment with one of these")
    found: dict[str, str] = {}
    lacking = []
    for package in TESTED:
        try:
            found[package] = get(package)
        except PackageNotFoundError:
            lacking.append(package)
    shown = ", ".join(f"{package} {found[package]}" for package in TESTED if package in found)
    if lacking:
        yield Finding("packages", "fail", f"{', '.join(lacking)} not installed; {shown}", INSTALL, {"versions": found})
        return
    others = [
        f"{package} {found[package]} (tested: {tested})"
        for package, tested in TESTED.items()
        if _series(found[package]) != _series(tested)
    ]
    if others:
        fix = f"if something fails, {INSTALL}"
        yield Finding("packages", "warn", f"not what was tested: {', '.join(others)}", fix, {"versions": found})
    else:
        yield Finding("packages", "ok", shown, figures={"versions": found})
    yield _fitting()


def _series(text: str) -> list[str]:
    """2.13 of 2.13.0+cpu: within a series things stay as they are."""
    return text.split("+")[0].split(".")[:2]


def _fitting() -> Finding:
    """As `pip check` does for the packages that matter."""
    try:
        conflicts = list(conflicts_of({}))
    except ImportError:
        return Finding("fitting", "warn", "cannot be checked without `packaging`", "pip install packaging")
    if conflicts:
        return Finding("fitting", "fail", "; ".join(conflicts), INSTALL)
    return Finding("fitting", "ok", f"requirements of {', '.join(HOLDERS)} are met")


def conflicts_of(versions: Mapping[str, str]) -> Iterator[str]:
    """Requirements that what is installed does not meet. `versions` go before what is installed."""
    from packaging.requirements import Requirement

    for holder in HOLDERS:
        try:
            needs = distribution(holder).requires or []
        except PackageNotFoundError:
            continue  # a checkout that is not installed; a missing package is a finding of its own
        for text in needs:
            need = Requirement(text)
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            try:
                has = versions.get(need.name) or version(need.name)
            except PackageNotFoundError:
                yield f"{holder} needs {need.name}, which is not installed"
                continue
            if not need.specifier.contains(has, prereleases=True):
                yield f"{holder} needs {need.name} {need.specifier}, {has} is installed"
