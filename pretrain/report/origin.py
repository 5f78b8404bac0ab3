"""Where things stand and where they came from: states, failures, the resumed segment, configuration and versions."""

from html import escape
from pathlib import Path
from typing import Any

from configs.load import difference, load_recipe
from pretrain.report.folder import MARKER, log_tails, read_json
from pretrain.report.markup import fold, section


def status(root: Path, stages: dict[str, Path]) -> str:
    """Where the demo and each stage stand."""
    demo = read_json(root / MARKER)
    parts = []
    if demo is not None:
        state, part = str(demo.get("state", "")), demo.get("part")
        parts.append((state, f"demo: {state}{f', at {part}' if part and state != 'done' else ''}"))
    for name, run in stages.items():
        found = read_json(run / "status.json")
        if found:
            state = str(found["state"])
            parts.append((state, f"{name}: {state}, step {found['step']:,} of {found['steps']:,}"))
    if not parts:
        return ""
    shown = "".join(f'<li class="{escape(state)}">{escape(said)}</li>' for state, said in parts if state)
    return f'<ul class="status" aria-label="state">{shown}</ul>'


def failure(root: Path, stages: dict[str, Path]) -> str:
    """The last lines of the ranks' logs where a stage failed."""
    out = []
    for name, run in stages.items():
        if (read_json(run / "status.json") or {}).get("state") == "failed":
            out += [
                fold(f"{name}: last lines of {log}", f"<pre>{escape(tail)}</pre>")
                for log, tail in log_tails(run).items()
            ]
    return section("failure", "What went wrong", "".join(out))


def lead(root: Path) -> str:
    """The demo's numbers in a sentence or two, once it is over."""
    found = read_json(root / "summary.json")
    if not found:
        return ""
    vqa, swap, seconds = found["vqa"], found["image_swap"], found["seconds"]
    return (
        f'<p class="lead">Answers <b>{vqa["accuracy"]:.1%}</b> of held-out questions rightly, where the question alone gives {vqa["text_only"]:.1%}; '
        f"both of <b>{swap['pair_accuracy']:.1%}</b> of picture pairs. Finds the right caption among 100 in <b>{found['caption']['retrieval_at_1_of_100']:.0%}</b>. "
        f"Trained on {found['train']['real_tokens']:,} tokens, {found['train']['real_tokens_per_s']:,.0f} a second; {_minutes(seconds['total'])} in all.</p>"
    )


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def resume(root: Path) -> str:
    """The killed and resumed segment."""
    found = read_json(root / "segment" / "segment.json")
    if not found:
        return ""
    verdict = "equal, bit for bit" if found["bitwise"] else "NOT equal"
    return section(
        "resume",
        "Killed and resumed",
        f"<p>From the caption checkpoint of step {found['first']:,} a second run trained on; one of its ranks was killed (SIGKILL) at step "
        f"{found['killed_at']:,} and the same command started again. At step {found['last']:,} its weights and the undisturbed run's are "
        f'<b class="{"good" if found["bitwise"] else "bad"}">{verdict}</b>.</p>'
        f'<p class="truth">SHA-256 <code>{escape(found["found"])}</code><br>and <code>{escape(found["expected"])}</code></p>',
    )


def compared(stages: dict[str, Path]) -> str:
    """What two runs, given side by side, do differently."""
    runs = list(stages.items())
    if len(runs) != 2:
        return ""
    (first, one), (second, two) = runs
    changes = difference(load_recipe(str(one / "config.yaml")), load_recipe(str(two / "config.yaml")))
    listed = "".join(f"<li><code>{escape(change)}</code></li>" for change in changes)
    return section(
        "compared", f"{first} -> {second}: what differs", f"<ul>{listed}</ul>" if listed else "<p>Nothing.</p>"
    )


def configuration(stages: dict[str, Path]) -> str:
    """Seed, commit, hardware, versions, and each stage's resolved recipe."""
    out = []
    for name, run in stages.items():
        versions, config = read_json(run / "versions.json"), run / "config.yaml"
        out.append(f"<h3>{escape(name)}</h3>{_origin(versions) if versions else ''}")
        if config.exists():
            out.append(fold("resolved recipe", f'<pre tabindex="0">{escape(config.read_text(encoding="utf-8"))}</pre>'))
    return section("configuration", "Where it came from", "".join(out))


def _origin(found: dict[str, Any]) -> str:
    hardware = found.get("hardware", {})
    packages = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    rows = {
        "seed": str(found.get("seed")),
        "commit": str(found.get("commit") or "not a git checkout"),
        "hardware": f"{hardware.get('name')}, {hardware.get('cores')} cores, {hardware.get('threads')} threads a rank",
        "system": f"Python {found.get('python')}, {found.get('system')}",
        "packages": packages,
    }
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(value)}</dd>' for name, value in rows.items())}</dl>"
