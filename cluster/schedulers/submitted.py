"""Which jobs a run or dataset belongs to: a line for each in `submitted.jsonl` of its folder of logs."""

import json
import time
from pathlib import Path
from typing import Any

NAME = "submitted.jsonl"


def logs_of(what: str) -> Path:
    """Folder of a run's logs, or of a dataset's jobs, which lies beside the dataset.

    >>> str(logs_of("runs/mine/data"))
    'runs/mine/data.jobs'
    """
    path = Path(what)
    return path / "logs" if (path / "logs").is_dir() else Path(f"{what.rstrip('/')}.jobs")


def note(folder: Path, **told: Any) -> None:
    """Add a job: `id`, `scheduler`, `site`, `script`, `log`, `command`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({**told, "time": time.time()}) + "\n")


def jobs_in(folder: Path) -> list[dict[str, Any]]:
    """The jobs that were submitted for a folder, oldest first."""
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.strip()]
