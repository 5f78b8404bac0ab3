"""Files out of Debian packages, without installing them: name -> unpacked folder in the benchmarks' cache.

Nothing of these packages is ever committed or copied elsewhere (some are GPL or GFDL): `cache()` makes a folder that git
ignores, `unpacked()` downloads with `apt-get download`, checks the sha256 below, and unpacks with `dpkg-deb -x`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    version: str | None  # none: what the archive has today (a server that gets security updates)
    sha256: str | None  # of the .deb; none: apt's own signature check is enough


# Debian 12 "bookworm". Each was downloaded and opened with these very sums.
PACKAGES = {
    "openclipart-png": Package("1:0.18+dfsg-19", "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02"),
    "openclipart-svg": Package("1:0.18+dfsg-19", "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5"),
    "tuxpaint-stamps-default": Package(
        "2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
    ),
    "gimp-help-en": Package("2.10.34-2", "a2deec76763aaf2fcdd197bac0736cdcb0770ba993d48d233329e1c92b0bfe36"),
    "lomiri-wallpapers-16.04": Package("20.04.0-2", "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab"),
    "tuxpaint-data": Package("1:0.9.28-sdl2-1", "f5d0de8f9a70d2efc1241d19f26168cb8bf279f1b77abd3631e7a1a55c40e5e5"),
    "fonts-dejavu-core": Package("2.37-6", "8892669e51aab4dc56682c8e39d8ddb7d70fad83c369344e1e240bf3ca22bb76"),
    "fonts-dejavu-extra": Package("2.37-6", "6cb7ed32de6df209c065e9e5cc5154a2f36d4c334d9a0af534fabb67d38ab75b"),
    "fonts-freefont-ttf": Package("20120503-10", "4ca1c21ebc479198a3a5879d236c8317d6f7b2f1c403f7890e24c02eead05615"),
    "fonts-liberation": Package("1:1.07.4-11", "efd381517f958b01969343634ffcbdd60056be7779af84c6f53a005090430204"),
    "nginx": Package(None, None),
}


def cache() -> Path:
    """Folder for all that the benchmarks fetch or make; `$LOOKSAY_BENCH_CACHE`, or `.cache` beside this file."""
    folder = Path(os.environ.get("LOOKSAY_BENCH_CACHE", Path(__file__).parent / ".cache")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="ascii")
    return folder


def unpacked(name: str) -> Path:
    """Root of the unpacked package, for example ROOT/usr/share/...; downloads it the first time (minutes at most).

    Ends the program with a sentence where apt is missing, the version is gone, or the sum differs.
    """
    package = PACKAGES[name]
    root = cache() / "debian" / name
    if root.is_dir():
        return root
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        sys.exit(f"{name} comes from a Debian package and apt-get is not here: run this on Debian 12 or its container")
    work = cache() / "debian" / f".{name}.{os.getpid()}"
    work.mkdir(parents=True)
    try:
        deb = _download(name, package, work)
        if package.sha256 is not None and _sha256(deb) != package.sha256:
            sys.exit(f"{deb.name} has sha256 {_sha256(deb)}, not {package.sha256}: another release of Debian?")
        files = work / "files"
        files.mkdir()
        subprocess.run(["dpkg-deb", "-x", str(deb), str(files)], check=True, timeout=300)
        files.rename(root)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return root


def _download(name: str, package: Package, folder: Path) -> Path:
    wanted = name if package.version is None else f"{name}={package.version}"
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", wanted]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    if done.returncode:  # most often: the lists of packages were never fetched here
        subprocess.run(["apt-get", "-q", "update"], capture_output=True, timeout=300)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    found = list(folder.glob("*.deb"))
    if done.returncode or len(found) != 1:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        sys.exit(f"apt-get download {wanted} failed: {last}: is this Debian 12, and is its archive reachable?")
    return found[0]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
