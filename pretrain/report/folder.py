"""What a run or demo folder holds so far: files that may be missing, torn or growing while we read."""

import json
from pathlib import Path
from typing import Any

STAGES = ("caption", "sft")
MARKER = "demo.json"
TAIL = 20


def read_json(path: Path) -> Any:
    """A JSON file; None where it is not there (yet)."""
    return json.loads(path.read_bytes()) if path.exists() else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines file; a torn last line of a running job is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def stages_of(root: Path) -> dict[str, Path]:
    """Runs of a demo folder (caption, sft, in order), or the folder itself where it is a run."""
    found = {name: root / name for name in STAGES if (root / name / "config.yaml").exists()}
    if not found and (root / "config.yaml").exists():
        found = {root.resolve().name: root}
    return found


def is_ours(root: Path) -> bool:
    """Whether there is anything to report on: a run, or a demo however young."""
    return bool(stages_of(root)) or (root / MARKER).exists() or (root / "data").is_dir()


def running(root: Path, stages: dict[str, Path]) -> bool:
    """Whether the page will be written again: a demo in any of its parts, or a run on its own."""
    demo = read_json(root / MARKER)
    if demo is not None:
        return demo.get("state") == "running"
    return any((read_json(run / "status.json") or {}).get("state") == "running" for run in stages.values())


def log_tails(run: Path) -> dict[str, str]:
    """The last lines of each rank's log: a run of its own keeps them inside, a demo's stages beside them."""
    folder = next((place for place in (run / "logs", run.parent / "logs") if any(place.glob("rank-*.log"))), None)
    if folder is None:
        return {}
    tails = {}
    for path in sorted(folder.glob("rank-*.log")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        tails[path.name] = "\n".join(line.rsplit("\r", 1)[-1] for line in lines)
    return tails
