"""What a Dockerfile or an Apptainer definition runs, as commands: to hold one against the other, and to try them without root.

python containers/steps.py FILE                   prints the steps
python containers/steps.py FILE --try FOLDER      runs them in FOLDER, a copy of what the image would hold: /opt is FOLDER/opt, apt-get is simulated
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDS_ROOT = ("useradd",)


def steps_of(text: str) -> list[str]:
    """Commands in their order, one a line, blanks single, comments left out."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    if re.search(r"(?m)^Bootstrap:", joined):
        body = re.search(r"(?ms)^%post\n(.*?)(?=^%|\Z)", joined)
        lines = body[1].splitlines() if body else []
        found = [line for line in lines if not re.match(r"\s*(TORCH=\{\{.*\}\}|export .*|cd .*)?\s*$", line)]
    else:
        found = re.findall(r"(?m)^RUN\s+(.*)$", joined)
    return [" ".join(step.split()) for step in found]


def copied(root: Path = ROOT) -> list[str]:
    """Names that .dockerignore lets into an image."""
    lines = (root / ".dockerignore").read_text().splitlines()
    return [line[1:] for line in lines if line.startswith("!")]


def tried(step: str, folder: Path, simulate_apt: bool = True) -> str:
    """A step as it can be run by anybody: below FOLDER, apt-get only simulated."""
    if simulate_apt:
        step = re.sub(r"apt-get update && ", "", step)
        step = re.sub(r"apt-get install -y", "apt-get install --simulate -y", step)
        step = re.sub(r" && rm -rf /var/lib/apt/lists/\*", "", step)
    return step.replace("/opt/", f"{folder}/opt/")


def try_steps(file: Path, folder: Path, torch: str) -> int:
    """Run the steps of a file in FOLDER. Returns the first exit code that is not 0."""
    home = folder / "opt" / "looksay"
    home.mkdir(parents=True, exist_ok=True)
    for name in copied():
        source, target = ROOT / name, home / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    env = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "VENV", "TORCH")
    }
    env |= {"TORCH": torch, "PATH": f"{folder}/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    for step in steps_of(file.read_text()):
        if step.split()[0] in NEEDS_ROOT:
            print(f"--- left out (needs root): {step}", flush=True)
            continue
        command = tried(step, folder)
        print(f"--- {command}", flush=True)
        code = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=home, env=env).returncode
        if code:
            return code
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--try", dest="folder", type=Path)
    parser.add_argument("--torch", default="cpu", help="build of torch to try with (default cpu)")
    args = parser.parse_args()
    if args.folder is None:
        print("\n".join(steps_of(args.file.read_text())))
        return 0
    return try_steps(args.file, args.folder.resolve(), args.torch)


if __name__ == "__main__":
    sys.exit(main())
