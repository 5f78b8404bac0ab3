"""Results of `looksay estimate` as trees for programs and tables for people."""

from typing import Any

from cluster.cost.estimate import Estimate, Estimator
from cluster.cost.network import seconds_of
from cluster.cost.parts import frozen_outside, parameters_by_module
from cluster.cost.search import said
from cluster.cost.sizes import checkpoint_bytes, inference_bytes
from cluster.cost.traffic import wire_bytes

GB, DAY, HOUR = 1e9, 86400.0, 3600.0
SEQUENCES = 8


def as_tree(
    estimator: Estimator, estimate: Estimate, change: Estimate | None, site: str, notes: list[str]
) -> dict[str, Any]:
    """Everything about one estimate. Bytes are of one rank, seconds of one optimizer step, FLOPs of all ranks."""
    recipe, setting, seconds = estimator.recipe, estimate.setting, estimate.seconds
    length, run = recipe.data.packing.length, seconds.total * recipe.stage.steps
    checkpoint = checkpoint_bytes(estimate.model)
    tp, numbers = setting.tp, estimator.numbers
    return {
        "recipe": recipe.name,
        "site": site,
        "setting": {**vars(setting), "dp": setting.dp, "micro_steps": estimate.micro_steps},
        "notes": notes,
        "parameters": parameters_by_module(estimate.model, frozen_outside(recipe.model)),
        "memory": {
            "items": estimate.memory,
            "used": estimate.used,
            "capacity": estimate.capacity,
            "fits": estimate.fits,
            "activations": estimate.activations.by_part,
            "activations_checkpointed": estimate.activations.recomputed,
        },
        "change": None if change is None else _change(setting, change, length),
        "traffic": _traffic(estimator, estimate),
        "flops": estimate.flops,
        "useful_flops": estimate.useful,
        "seconds": {**vars(seconds), "total": seconds.total},
        "compute_by_part": {
            part: {"forward": estimate.micro.forward[part], "backward": estimate.micro.backward[part]}
            for part in estimate.micro.forward
        },
        "tokens_per_s": estimate.tokens_per_s,
        "mfu": estimate.mfu,
        "steps": recipe.stage.steps,
        "days": run / DAY,
        "gpu_hours": run / HOUR * setting.ranks,
        "checkpoint": {
            "each": checkpoint.each,
            "frozen_once": checkpoint.frozen,
            "kept": checkpoint.kept(recipe.checkpoint.keep_last),
        },
        "inference": {
            "sequences": SEQUENCES,
            "positions": recipe.model.decoder.max_length,
            **inference_bytes(estimate.model, recipe.model.decoder, numbers.weight, numbers.math, SEQUENCES),
            "tp": tp,
        },
    }


def _change(setting: Any, change: Estimate, length: int) -> dict[str, Any]:
    return {"set": said(setting, change.setting, length), "used": change.used, "tokens_per_s": change.tokens_per_s}


def _traffic(estimator: Estimator, estimate: Estimate) -> list[dict[str, Any]]:
    """Every kind of collective of a step: payload, bytes that a rank sends, seconds on the site's idle links."""
    setting = estimate.setting
    sizes = {"tp": setting.tp, "dp": setting.dp, "world": setting.ranks}
    node = estimator.devices_per_node(setting.ranks)
    return [
        {
            "what": m.what,
            "operation": m.operation,
            "group": m.group,
            "calls": m.calls,
            "payload": m.payload,
            "sent": wire_bytes(m.operation, m.payload, sizes[m.group]),
            "seconds": seconds_of(m, estimator.hardware, setting.tp, setting.dp, node),
            "overlaps": m.overlaps,
        }
        for m in estimate.messages
    ]


def text_of(tree: dict[str, Any]) -> str:
    """The tree as tables."""
    setting = tree["setting"]
    lines = [
        f"{tree['recipe']} on {tree['site']}: {setting['ranks']} ranks = {setting['dp']} x data, {setting['tp']} x tensor "
        f"parallel, ZeRO-{setting['zero']}; {setting['micro_steps']} micro-steps of {setting['rows_per_rank']} rows a rank",
        *(f"  {note}" for note in tree["notes"]),
        "",
        f"{'parameters':<28}{'whole':>16}{'trained':>16}",
    ]
    rows = tree["parameters"].items()
    lines += [f"  {name:<26}{row['whole']:>16,}{row['trained']:>16,}" for name, row in rows]
    totals = [sum(row[kind] for _, row in rows) for kind in ("whole", "trained")]
    lines += [f"  {'total':<26}{totals[0]:>16,}{totals[1]:>16,}", "", *_memory_lines(tree), "", *_traffic_lines(tree)]
    flops, total = tree["flops"], sum(sum(row.values()) for row in tree["flops"].values())
    lines += ["", f"{'FLOPs of a step, all ranks':<28}{'forward':>12}{'backward':>12}{'share':>8}"]
    for part, row in flops.items():
        lines.append(f"  {part:<26}{row['forward']:>12.3g}{row['backward']:>12.3g}{sum(row.values()) / total:>8.1%}")
    return "\n".join([*lines, "", *_time_lines(tree)])


def _memory_lines(tree: dict[str, Any]) -> list[str]:
    memory = tree["memory"]
    lines = [f"{'memory of a rank':<28}{'GB':>16}"]
    for name, size in sorted(memory["items"].items(), key=lambda item: -item[1]):
        lines.append(f"  {name:<26}{size / GB:>16.3f}")
    checked = memory["activations_checkpointed"] / GB
    lines.append(f"  {'total':<26}{memory['used'] / GB:>16.3f} of {memory['capacity'] / GB:.1f}: {_verdict(tree)}")
    return [*lines, f"  (activations would be {checked:.3f} GB with checkpointed blocks)"]


def _verdict(tree: dict[str, Any]) -> str:
    if tree["memory"]["fits"]:
        return "fits"
    change = tree["change"]
    if change is None:
        return "does not fit, and no single or double change makes it fit"
    return f"does NOT fit; nearest change: {change['set']} ({change['used'] / GB:.1f} GB, {change['tokens_per_s']:,.0f} tok/s)"


def _traffic_lines(tree: dict[str, Any]) -> list[str]:
    if not tree["traffic"]:
        return ["nothing is sent: one rank"]
    lines = [f"{'sent by a rank in a step':<28}{'group':>6}{'calls':>8}{'MB':>12}{'ms':>10}"]
    for row in tree["traffic"]:
        mark = " beside compute" if row["overlaps"] else ""
        lines.append(
            f"  {row['what']:<26}{row['group']:>6}{row['calls']:>8.0f}{row['sent'] / 1e6:>12.3f}"
            f"{row['seconds'] * 1e3:>10.2f}  {row['operation']}{mark}"
        )
    return lines


def _time_lines(tree: dict[str, Any]) -> list[str]:
    seconds, checkpoint, inference = tree["seconds"], tree["checkpoint"], tree["inference"]
    parts = ", ".join(
        f"{name} {seconds[name]:.4g}" for name in ("compute", "waiting", "exposed", "engine", "update", "host")
    )
    return [
        f"step {seconds['total']:.4g} s ({parts}; {seconds['hidden']:.4g} of communication hidden)",
        f"{tree['tokens_per_s']:,.0f} real tokens/s, MFU {tree['mfu']:.1%}; {tree['steps']:,} steps in "
        f"{tree['days']:.3g} days = {tree['gpu_hours']:,.4g} device hours",
        f"checkpoint {checkpoint['each'] / GB:.3g} GB, {checkpoint['kept'] / GB:.3g} GB kept",
        f"inference of {inference['sequences']} sequences of {inference['positions']}: weights "
        f"{inference['weights'] / GB:.3g} GB + keys and values {inference['cache'] / GB:.3g} GB "
        f"({inference['cache_per_position'] / 1e3:.4g} kB a position)",
    ]


# ---- search and simulation --------------------------------------------------------------------------------------


def search_tree(estimator: Estimator, found: list[Estimate]) -> list[dict[str, Any]]:
    length = estimator.recipe.data.packing.length
    return [
        {
            **vars(one.setting),
            "dp": one.setting.dp,
            "accumulation": one.micro_steps,
            "used": one.used,
            "capacity": one.capacity,
            "step_seconds": one.seconds.total,
            "tokens_per_s": one.tokens_per_s,
            "mfu": one.mfu,
            "set": said(estimator.setting, one.setting, length),
        }
        for one in found
    ]


def search_text(estimator: Estimator, ranks: int, found: list[Estimate]) -> str:
    if not found:
        return f"no setting of {ranks} ranks fits: use more, shorter rows, or fewer trained parts"
    lines = [
        f"{'tp':>3}{'dp':>5}{'zero':>5}{'rows':>5}{'accum':>6}{'ckpt':>6}{'GB':>8}{'s/step':>9}{'tok/s':>12}{'MFU':>7}"
    ]
    for one in found:
        s = one.setting
        lines.append(
            f"{s.tp:>3}{s.dp:>5}{s.zero:>5}{s.rows_per_rank:>5}{one.micro_steps:>6}{'yes' if s.recompute else '-':>6}"
            f"{one.used / GB:>8.1f}{one.seconds.total:>9.3g}{one.tokens_per_s:>12,.0f}{one.mfu:>7.1%}"
        )
    first = next((one for one in found if not one.setting.recompute), found[0])
    change = said(estimator.setting, first.setting, estimator.recipe.data.packing.length)
    return "\n".join([*lines, f"fastest that the trainer can do now: {change or 'the recipe as it is'}"])


def simulation_text(result: dict[str, Any], notes: list[str]) -> str:
    steps, best = result["step_seconds"], result["best"]
    lines = [
        f"{result['ranks']} ranks = {result['dp']} x data, {result['tp']} x tensor parallel, ZeRO-{result['zero']}",
        *(f"  {note}" for note in notes),
    ]
    if result["idle_ranks"]:
        lines.append(f"  {result['idle_ranks']} data-parallel ranks get no row: raise data.packing.rows_per_step")
    lines += [
        f"step: mean {steps['mean']:.4g} s, p5 {steps['p5']:.4g}, p50 {steps['p50']:.4g}, p95 {steps['p95']:.4g}, "
        f"p99 {steps['p99']:.4g} (estimate {steps['estimate']:.4g})",
        "lost to " + ", ".join(f"{name} {share:.1%}" for name, share in result["lost_to"].items()),
        f"{result['tokens_per_s']:,.0f} real tokens/s, MFU {result['mfu']:.1%}",
        f"a failure every {result['job_mtbf_hours']:.3g} h; checkpoint {result['checkpoint_seconds']:.3g} s, "
        f"restart {result['restart_seconds']:.3g} s",
        f"{'interval, steps':>16}{'minutes':>10}{'expected':>10}{'played':>10}",
    ]
    for row in result["intervals"]:
        mark = "  best" if row["steps"] == best["steps"] else ""
        minutes = row["seconds"] / 60
        lines.append(f"{row['steps']:>16,}{minutes:>10.3g}{row['expected']:>10.2%}{row['played']:>10.2%}{mark}")
    return "\n".join(
        [
            *lines,
            f"Young {result['young']['steps']:,.0f} steps, Daly {result['daly']['steps']:,.0f}; the recipe says "
            f"checkpoint.every {result['recipe_every']}",
            f"whole run at the best interval: {result['days']:.3g} days, {result['gpu_hours']:,.4g} device hours",
        ]
    )
