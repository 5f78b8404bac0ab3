"""`looksay doctor`: is this machine fit, what does it reach, and what to fix."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import RunError, UserError
from pretrain.cli.output import emit
from pretrain.cli.parser import add_json, add_verb, count

if TYPE_CHECKING:
    from cluster.doctor.findings import Finding
    from configs.site import SiteConfig

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}
USUAL_SHARE = 0.5
"""Below this share of the site's figure something is wrong with the machine, not with the measurement."""


def add_verbs(groups: Any) -> None:
    parser = add_verb(
        groups,
        "doctor",
        _doctor,
        "Versions, devices, memory, disks, bandwidths, peaks, storage, SLURM and Ray of this machine; what to fix. "
        "Exit code 1 where something fails.",
        [
            "looksay doctor",
            "looksay doctor --quick --json",
            "looksay doctor --site my_cluster.yaml --storage s3://bucket/runs",
            "looksay doctor --write-site mine.yaml",
        ],
    )
    parser.add_argument(
        "--site", metavar="SITE", help="a site whose scheduler must answer and whose figures are compared"
    )
    parser.add_argument(
        "--storage",
        action="append",
        default=[],
        metavar="PLACE",
        help="folder or s3:// URL to try (default .); repeatable",
    )
    parser.add_argument("--ranks", type=count, help="that measure at once (default: the node's GPUs, or cores)")
    parser.add_argument("--quick", action="store_true", help="shorter measurements: about 20 s instead of a minute")
    parser.add_argument("--no-measure", action="store_true", help="look only: no ranks are started (under a second)")
    parser.add_argument(
        "--write-site",
        metavar="FILE",
        help="write what was measured as a site's YAML, for `looksay estimate --site FILE`",
    )
    add_json(parser)


def _doctor(args: argparse.Namespace) -> int:
    from cluster.doctor.findings import exit_code
    from configs.site import load_site

    site = None if args.site is None else load_site(args.site)
    if args.write_site is not None and args.no_measure:
        raise UserError("--write-site writes what is measured: leave out --no-measure")
    if args.write_site is not None and not args.write_site.endswith((".yaml", ".yml")):
        raise UserError(
            f"--write-site {args.write_site} does not end in .yaml, by which `--site` knows a file: rename it"
        )
    places = args.storage or ["."]
    findings: list[Finding] = []
    for finding in _looked_at(site, places):
        findings.append(finding)
        _say(finding, args.json)
    measured: dict[str, Any] | None = None
    # Where packages are missing nothing can be measured, and the findings have said what to install.
    installed = all(one.level != "fail" for one in findings if one.name in ("python", "packages"))
    if installed and not args.no_measure:
        from pretrain.doctor.storage import check_storage

        for place in places:
            findings.append(check_storage(place, args.quick))
            _say(findings[-1], args.json)
        for finding, found in _measured(args, site, findings):
            findings.append(finding)
            measured = found or measured
            _say(finding, args.json)
    if args.write_site is not None and measured is not None:
        _write_site(args.write_site, measured, findings)
    verdict = {level: sum(one.level == level for one in findings) for level in MARKS}
    text = f"\n{verdict['ok']} ok, {verdict['warn']} to look at, {verdict['fail']} to fix"
    if args.write_site is not None and measured is not None:
        text += f"\nwritten: {args.write_site}; next: looksay estimate RECIPE --site {args.write_site}"
    emit({"findings": findings, "measured": measured, **verdict}, text, args.json)
    return exit_code(findings)


def _looked_at(site: "SiteConfig | None", places: Sequence[str]) -> "Iterator[Finding]":
    """What needs no measuring."""
    from cluster.doctor.disk import check_disks
    from cluster.doctor.machine import check_machine
    from cluster.doctor.reach import check_reach
    from cluster.doctor.versions import check_versions

    yield from check_versions()
    yield from check_machine()
    yield from check_disks([place for place in places if "://" not in place])
    yield from check_reach(None if site is None else site.scheduler)


def _measured(
    args: argparse.Namespace, site: "SiteConfig | None", findings: "Sequence[Finding]"
) -> "Iterator[tuple[Finding, dict[str, Any] | None]]":
    """Findings of ranks that measure at once; the last one comes with all figures."""
    from cluster.doctor.findings import Finding
    from cluster.interface import cores
    from pretrain.doctor.measure import measure

    gpus = next((one.figures.get("gpus", 0) for one in findings if one.name == "devices"), 0)
    ranks = args.ranks or gpus or cores()
    try:
        found = measure(ranks, args.quick)
    except RunError as error:
        fix = "its last lines name the cause: most often a version (above), a driver, or a port that a firewall closes"
        yield Finding("ranks", "fail", f"{ranks} local ranks did not measure: {error}", fix), None
        return
    for finding in _peaks(found, site):
        yield finding, found


def _peaks(found: dict[str, Any], site: "SiteConfig | None") -> "Iterator[Finding]":
    """Measured figures as sentences, held against the site's where there is one."""
    known = None if site is None else site.hardware
    each = f"each of {int(found['ranks'])} ranks"
    for name, sizes in found["products"].items():
        best = max(sizes.values())
        shown = ", ".join(f"{size}: {rate / 1e9:,.0f}" for size, rate in sizes.items())
        said = f"{best / 1e12:.3g} TFLOP/s {each} (GFLOP/s by size {shown})"
        wanted = None if known is None else known.peak_tflops.get(name)  # type: ignore[call-overload]
        share = (
            None
            if wanted is None or known is None
            else best / 1e12 / (wanted * known.share(known.matmul_efficiency, name))
        )
        yield _held(f"products {name}", said, share, {"flops": best, "by_size": sizes})
    moved = found["moved"]
    said = f"{moved['memory'] / 1e9:.3g} GB/s {each}, {moved['cache'] / 1e9:.3g} GB/s of what caches hold"
    share = None if known is None else moved["cache"] / 1e9 / known.memory_gb_per_s
    yield _held("memory bandwidth", said, share, moved)
    links = found["collectives"]
    if links:
        said = (
            f"all-reduce {links['all_reduce'] / 1e9:.3g} GB/s, all-gather {links['all_gather'] / 1e9:.3g} GB/s sent by "
            f"{each}, {links['latency'] * 1e6:.0f} us for a tiny one"
        )
        share = None if known is None else links["all_reduce"] / 1e9 / known.intra_node.gb_per_s
        yield _held("collectives", said, share, links)


def _held(name: str, said: str, share: float | None, figures: dict[str, Any]) -> "Finding":
    from cluster.doctor.findings import Finding

    if share is None or share >= USUAL_SHARE:
        return Finding(name, "ok", said, figures=figures)
    said = f"{said}; {share:.0%} of what the site says"
    fix = "see who else uses this machine (`top`, `nvidia-smi`), clocks and power limits; then drain the node, or correct the site"
    return Finding(name, "warn", said, fix, figures)


def _write_site(path: str, measured: dict[str, Any], findings: "Sequence[Finding]") -> None:
    import yaml

    from configs.site import load_hardware
    from data_pipeline.storage import put
    from pretrain.doctor.site import site_tree

    figures = {one.name: one.figures for one in findings}
    written = [one.figures["write"] for one in findings if "write" in one.figures]
    gpus = figures["devices"].get("gpus", 0)
    whole = float(figures["memory"].get("limit") or figures["memory"]["total"])
    memory = float(figures["devices"]["memory_mib"][0]) * 2**20 if gpus else whole / int(measured["ranks"])
    tree = site_tree(measured, memory, min(written, default=5e8))
    header = (
        "# Measured on this machine; `looksay estimate RECIPE --site` this file. Add `scheduler:` to submit with it.\n"
    )
    put(path, (header + yaml.safe_dump(tree, sort_keys=False, width=200)).encode())
    load_hardware(str(Path(path)))


def _say(finding: "Finding", as_json: bool) -> None:
    if as_json:
        return
    print(f"{MARKS[finding.level]}  {finding.name:<17} {finding.said}", flush=True)
    if finding.fix:
        print(f"      {'':<17} -> {finding.fix}", flush=True)
