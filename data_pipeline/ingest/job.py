"""A build: records -> units on Ray -> ordered cut -> manifest, which comes last.

Killed at any moment, the same command continues: committed units are not done again, and the result is
byte-identical to an undisturbed build, whatever the number of workers.
"""

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from configs.errors import RunError, UserError
from configs.ingest import RayConfig
from configs.schema import BuildRecipe
from data_pipeline.ingest.compose import compose
from data_pipeline.ingest.cut import cut
from data_pipeline.ingest.sources import Record, list_records
from data_pipeline.ingest.units import process_unit, read_unit, unit_path
from data_pipeline.manifest import NAME, Manifest, read_manifest, write_manifest
from data_pipeline.storage import TEMPORARY, exists, is_remote, join, listdir, put, read_bytes

OURS = (".tar", ".parquet", NAME, "tokens", "features", "work", "build.json")


def build(recipe: BuildRecipe, *, progress: bool = True) -> Manifest:
    """Make the dataset of a recipe, or say that it is there already (`manifest.reused`).

    Raises:
        UserError: bad source, or an output folder that holds something else.
    """
    records = list_records(recipe.source)
    if recipe.compose is not None:
        records = compose(records, recipe.compose)
    fingerprint = fingerprint_of(recipe, records)
    done = _check_output(recipe, fingerprint)
    if done is not None:
        return done
    put(join(recipe.output, "build.json"), json.dumps(_identity(recipe, fingerprint), sort_keys=True).encode())
    count = -(-len(records) // recipe.unit_size)
    missing = [number for number in range(count) if not exists(unit_path(recipe.output, number))]
    if missing:
        with local_ray(recipe.ray):
            _run_units(recipe, records, missing, progress)
    outcomes = (outcome for number in range(count) for outcome in read_unit(recipe.output, number))
    shards, totals = cut(outcomes, recipe.output, recipe.shard_size)
    if totals["rows"] != len(records):
        raise AssertionError(f"{len(records)} rows went in, {totals['rows']} came out")
    if not totals["kept"]:
        raise UserError(
            f"all {totals['rows']} rows of {recipe.name} were rejected: {totals['rejected']}; see {recipe.output}/*.outcomes.parquet"
        )
    manifest = Manifest(recipe.name, fingerprint, recipe.model_dump(mode="json"), shards, totals)
    write_manifest(recipe.output, manifest)
    _tidy(recipe.output)
    return manifest


def _tidy(output: str) -> None:
    """Remove what only an unfinished build needs, and what a killed one left half-written."""
    if is_remote(output):
        return
    shutil.rmtree(join(output, "work"), ignore_errors=True)
    for name in listdir(output):
        if name == "build.json" or name.startswith(TEMPORARY):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(join(output, name))


def fingerprint_of(recipe: BuildRecipe, records: list[Record]) -> str:
    """Identity of a build: what it does (not where, nor on how many workers) and what goes in.

    A picture counts by name, place and size in bytes: listing stays cheap, and a repaired picture is seen.
    """
    sizes: dict[str, int] = {}
    identity = recipe.model_dump(mode="json", exclude={"output", "ray", "name"})
    sha = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for record in records:
        images = [
            (ref.path.rsplit("/", 1)[-1], ref.row, ref.column, ref.canvas, _size(ref.path, sizes))
            for ref in record.images
        ]
        turns = [(m.role, m.content) for m in record.messages or ()]
        sha.update(json.dumps([images, record.text, turns, record.problem]).encode())
    return sha.hexdigest()


def _size(path: str, known: dict[str, int]) -> int:
    """Bytes of a local file, -1 where there is none."""
    if path not in known:
        known[path] = os.path.getsize(path) if not is_remote(path) and os.path.exists(path) else -1
    return known[path]


def _identity(recipe: BuildRecipe, fingerprint: str) -> dict[str, Any]:
    return {"fingerprint": fingerprint, "recipe": recipe.model_dump(mode="json")}


def _check_output(recipe: BuildRecipe, fingerprint: str) -> Manifest | None:
    """The finished dataset of this fingerprint, None where work is to be done; refuses anything else."""
    output = recipe.output
    if exists(output) and not is_remote(output) and not os.path.isdir(output):
        raise UserError(f"output {output} is a file: give a folder")
    names = [name for name in listdir(output) if not name.startswith(TEMPORARY)]
    # Without a mark of ours, tars and parquet files are somebody's too, and `work` is their folder.
    ours = OURS if "build.json" in names or NAME in names else ()
    foreign = [name for name in names if not name.endswith(ours)]
    if foreign:
        raise UserError(f"output {output} holds something else ({', '.join(foreign[:3])}): choose an empty folder")
    if NAME in names:
        manifest = read_manifest(output)
        if manifest.fingerprint == fingerprint:
            _tidy(output)
            return Manifest(manifest.name, fingerprint, manifest.recipe, manifest.shards, manifest.totals, reused=True)
        raise UserError(_difference(output, manifest.recipe, recipe))
    if "build.json" in names:
        begun = json.loads(read_bytes(join(output, "build.json")))
        if begun["fingerprint"] != fingerprint:
            raise UserError(_difference(output, begun["recipe"], recipe))
    return None


def _difference(output: str, old: dict[str, Any], recipe: BuildRecipe) -> str:
    new = recipe.model_dump(mode="json")
    changed = [
        f"{key}: {old.get(key)} -> {new[key]}"
        for key in new
        if old.get(key) != new[key] and key not in ("output", "ray", "name")
    ]
    what = "; ".join(changed) or "the input rows are not the same"
    return f"{output} holds another build ({what}): choose another output, or remove the folder to build anew"


def _run_units(recipe: BuildRecipe, records: list[Record], missing: list[int], progress: bool) -> None:
    """Run the missing units on Ray with a bounded number in flight."""
    import ray

    task = ray.remote(max_retries=3)(process_unit)
    output = recipe.output if is_remote(recipe.output) else os.path.abspath(recipe.output)
    width = recipe.ray.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    size, waiting = recipe.unit_size, list(reversed(missing))
    flying: dict[Any, int] = {}
    bar = tqdm(
        total=sum(len(records[n * size : (n + 1) * size]) for n in missing),
        unit="row",
        desc=recipe.name,
        disable=not progress,
        file=sys.stderr,
        mininterval=0.5,
    )
    kept = rejected = 0
    with bar:
        while waiting or flying:
            while waiting and len(flying) < 2 * width:
                number = waiting.pop()
                part = [_anchored(record) for record in records[number * size : (number + 1) * size]]
                ref = task.remote(output, number, number * size, part, recipe.images, recipe.text)
                flying[ref] = len(part)
            ready, _ = ray.wait(list(flying), num_returns=1, timeout=60)
            for ref in ready:
                done = _result(ref)
                kept, rejected = kept + done[0], rejected + done[1]
                bar.set_postfix(kept=kept, rejected=rejected, refresh=False)
                bar.update(flying.pop(ref))


def _result(ref: Any) -> Any:
    """What a task returned; what it says to a person is raised without Ray's traceback around it."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | RunError):
            raise error.cause from None
        raise


def _anchored(record: Record) -> Record:
    """The record with whole paths: workers do not stand in our working folder."""
    images = tuple(
        ref if is_remote(ref.path) else replace(ref, path=os.path.abspath(ref.path)) for ref in record.images
    )
    return replace(record, images=images)


_WORKERS = ("PYTHONSAFEPATH", "RAY_USAGE_STATS_ENABLED", "PYTHONPATH")
"""Environment that workers inherit; the driver gets its own back."""


def _python_path() -> str:
    """PYTHONPATH of workers: a checkout that is not installed must be found by them too."""
    given = os.environ.get("PYTHONPATH", "")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.basename(root) in ("site-packages", "dist-packages") or root in given.split(os.pathsep):
        return given
    return os.pathsep.join(part for part in (given, root) if part)


@contextlib.contextmanager
def local_ray(config: RayConfig) -> Iterator[None]:
    """A Ray to run on: the one that runs already in this process, the cluster at `address`, or a local one.

    The local one listens on loopback only, has no dashboard, and ends with the outermost `with`. Ray would put the
    driver's working folder on its workers' path, where a user's own `configs/` could shadow ours: so it starts from
    an empty folder and with Python's safe path on.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    here = os.getcwd()
    neutral = tempfile.mkdtemp(prefix="looksay-ray-")
    before = {name: os.environ.get(name) for name in _WORKERS}
    os.environ |= {"PYTHONSAFEPATH": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": _python_path()}
    try:
        os.chdir(neutral)
        if config.address:
            ray.init(address=config.address, log_to_driver=False, logging_level="error")
        else:
            temporary = os.path.join(tempfile.gettempdir(), f"looksay-{getpass.getuser()}-{os.getpid()}")
            ray.init(
                num_cpus=config.workers or os.cpu_count() or 1,
                object_store_memory=config.object_store_mb * 2**20,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=temporary,
                log_to_driver=False,
                logging_level="error",
            )
        os.chdir(here)
        yield
    finally:
        os.chdir(here)
        ray.shutdown()
        shutil.rmtree(neutral, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if not config.address:
            shutil.rmtree(
                os.path.join(tempfile.gettempdir(), f"looksay-{getpass.getuser()}-{os.getpid()}"), ignore_errors=True
            )
