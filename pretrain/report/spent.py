"""Where the time of each run went: steps that count, steps trained again, standing still, starting."""

from html import escape
from pathlib import Path

from pretrain.goodput import KINDS, goodput
from pretrain.report.markup import section, table

WORDS = {
    "effective": "steps that count",
    "lost": "steps trained again",
    "starting": "starting",
    "down": "down",
    "stall": "waiting for checkpoints",
    "validation": "validation",
}


def time_spent(stages: dict[str, Path]) -> str:
    """A row a run, seconds by kind; nothing where no run has a timeline."""
    rows = []
    for name, run in stages.items():
        found = goodput(run)
        if found is None or not found["wall"]:
            continue
        shares = [f"{found['seconds'][kind]:,.1f} s" for kind in KINDS]
        recoveries = ", ".join(f"{seconds:.1f} s" for seconds in found["recoveries"]) or "none"
        rows.append(
            [
                escape(name),
                f"{found['wall']:,.1f} s",
                f"{found['ratio']:.1%}",
                *shares,
                str(found["starts"]),
                recoveries,
            ]
        )
    head = ["run", "in all", "effective", *(WORDS[kind] for kind in KINDS), "starts", "recoveries"]
    body = table(head, rows, "Seconds of each run by kind; they add up to the whole") if rows else ""
    return section("spent", "Where the time went", body, "From the birth of the first start to the last moment noted.")
