"""One thing that was looked at. `fix` says what to do; it is empty where all is well."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from configs.errors import DONE, FAILED

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """`figures` are numbers for programs, in units that their names say."""

    name: str
    level: Level
    said: str
    fix: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert bool(self.fix) == (self.level != "ok"), f"{self.name}: a fix belongs to what is not ok, and only there"


def exit_code(findings: Sequence[Finding]) -> int:
    """0 unless something failed: warnings do not stop a job."""
    return FAILED if any(one.level == "fail" for one in findings) else DONE


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count < 1e13 else f"{count / 1e12:.1f} TB"
