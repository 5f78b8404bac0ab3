"""Killed and gone on: how fast, how much is lost, how often it is exact. Real processes, faults from outside.

    python benchmarks/resume.py kills --times 20        # SIGKILL of a random rank at random moments: weights bitwise equal?
    python benchmarks/resume.py preempt --times 100     # SIGTERM at random moments: committed within 8 s, no step lost?
    python benchmarks/resume.py frozen --times 5        # SIGSTOP of a rank: seconds until the job is over
    python benchmarks/resume.py start                   # start to first step, at step 0 and at step 10,000
    python benchmarks/resume.py goodput --minutes 10    # a failure a minute
    python benchmarks/resume.py verify                  # MB/s of looking through a checkpoint

A tiny model (62 k parameters), two ranks, ZeRO-3, bf16; a step takes about 20 ms. Each part prints JSON.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from configs.errors import REQUEUE  # noqa: E402
from configs.load import dump_recipe  # noqa: E402
from pretrain.checkpoint.choose import folder_of  # noqa: E402
from pretrain.checkpoint.head import Heads  # noqa: E402
from pretrain.checkpoint.reading import weights_sha256  # noqa: E402
from pretrain.goodput import goodput, read_timeline  # noqa: E402
from tests.pretrain.squares import make_world  # noqa: E402
from tests.resume.faults import new_nursery, recipe_tree, train  # noqa: E402

GRACE_SECONDS = 8.0
ENV = os.environ | {"PYTHONPATH": str(ROOT)}


class World:
    """A folder with the data, and a warm process for ranks."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="looksay-resume-"))
        self.data = make_world(self.folder / "data") if (self.folder / "data").mkdir() is None else None
        self.nursery = new_nursery()

    def recipe(self, steps: int, every: int, **parts: dict[str, Any]) -> Any:
        own = {"stage": {"steps": steps}, "checkpoint": {"every": every, "keep_last": 2}, **parts}
        return recipe_tree(str(self.data), **own)

    def run(
        self, name: str, recipe: Any, act: Callable[[Path, list[int]], None] | None = None
    ) -> tuple[Path, list[int]]:
        """Train; `act` runs beside it with the run's folder and the list of the ranks' processes, which follows restarts."""
        run, pids = self.folder / name, list[int]()

        class Beside:
            folder, moment, problem = run, "never", None

            def started(self, now: list[int]) -> None:
                pids[:] = now

            def watch(self) -> None:
                if act is not None:
                    act(run, pids)

        return run, train(self.nursery, recipe, run, Beside())  # type: ignore[arg-type]


def last_step(run: Path) -> int:
    moments = read_timeline(run)
    return max((m["step"] for m in moments), default=0)


def wait_for_step(run: Path, step: int, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while last_step(run) < step and time.monotonic() < end:
        time.sleep(0.005)


def kills(times: int, **_: Any) -> dict[str, Any]:
    world, steps = World(), 40
    recipe = world.recipe(steps, 5)
    clean = weights_sha256(folder_of(world.run("clean", recipe)[0], steps))
    equal, recoveries, lost = 0, list[float](), 0
    for number in range(times):
        chance = random.Random(number)
        at, pause = chance.randrange(1, steps - 1), chance.random() * 0.05

        def kill(run: Path, pids: list[int], at: int = at, pause: float = pause, chance: Any = chance) -> None:
            wait_for_step(run, at)
            time.sleep(pause)
            os.kill(chance.choice(pids), signal.SIGKILL)

        run, _codes = world.run(f"kill-{number}", recipe, kill)
        equal += weights_sha256(folder_of(run, steps)) == clean
        spent = goodput(run)
        assert spent is not None
        recoveries += spent["recoveries"]
        lost += spent["lost_steps"]
    world.nursery.close()
    return {
        "times": times,
        "bitwise_equal": equal,
        "recovery_s": {"median": median(recoveries), "most": max(recoveries), "all": recoveries},
        "steps_trained_again": lost,
    }


def preempt(times: int, **_: Any) -> dict[str, Any]:
    """Each preemption: SIGTERM to all ranks, as a scheduler does; the next start goes on."""
    world, every = World(), 1000
    steps = 40 * times
    recipe = world.recipe(steps, every)
    taken: list[float] = []
    run, over = world.folder / "preempted", threading.Event()
    lost = 0
    for number in range(times):
        chance = random.Random(number)
        said: list[float] = []

        def ask(run: Path, pids: list[int], chance: Any = chance, said: list[float] = said) -> None:
            first = last_step(run)
            wait_for_step(run, first + 1)
            time.sleep(chance.random() * 0.2)
            said.append(time.time())
            for pid in pids:
                os.kill(pid, signal.SIGTERM)

        before = max(Heads(str(run / "checkpoints")).read().steps, default=0)
        codes = _one_start(world, run, recipe, ask)
        entry = max(Heads(str(run / "checkpoints")).read().entries, key=lambda entry: entry.step, default=None)
        reached = last_step(run)
        committed = codes == REQUEUE and entry is not None and entry.step > before
        lost += 0 if entry is not None and entry.step == reached else 1
        taken.append(entry.time - said[0] if committed and entry is not None else float("inf"))
    over.set()
    world.nursery.close()
    return {
        "times": times,
        "committed_within_8_s": sum(t <= GRACE_SECONDS for t in taken),
        "seconds": {"median": median(taken), "most": max(taken)},
        "preemptions_that_lost_a_step": lost,
    }


def _one_start(world: World, run: Path, recipe: Any, ask: Callable[[Path, list[int]], None]) -> int:
    from cluster.launch import RankFailure
    from pretrain.restarting import start_ranks

    path = run / "logs" / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_recipe(recipe))
    jobs = [{"verb": "train", "recipe": str(path), "run": str(run)}]
    (run / "logs" / "jobs.json").write_text(json.dumps(jobs))

    def started(pids: list[int]) -> None:
        threading.Thread(target=ask, args=(run, pids), daemon=True).start()

    try:
        start_ranks(str(run / "logs" / "jobs.json"), jobs, 2, str(run / "logs"), 1, started, world.nursery)
    except RankFailure as failure:
        return failure.exit_code
    return 0


def frozen(times: int, **_: Any) -> dict[str, Any]:
    world, heart, found = World(), 5.0, list[float]()
    named = 0
    for number in range(times):
        recipe = world.recipe(40, 5, parallel={"heartbeat_seconds": heart, "restarts": 0})
        stopped: list[float] = []

        def stop(run: Path, pids: list[int], number: int = number, stopped: list[float] = stopped) -> None:
            wait_for_step(run, 10)
            stopped.append(time.time())
            os.kill(pids[number % 2], signal.SIGSTOP)

        run, _codes = world.run(f"frozen-{number}", recipe, stop)
        found.append(time.time() - stopped[0])
        logs = "".join(path.read_text() for path in (run / "logs").glob("rank-*.log"))
        named += f"rank {number % 2} on " in logs or "the job's store, on the first rank's host" in logs
    world.nursery.close()
    return {"times": times, "heartbeat_seconds": heart, "named": named, "seconds": found, "most": max(found)}


def start(**_: Any) -> dict[str, Any]:
    """Whole commands, imports and all: from birth to the first step."""
    world, far = World(), 10_000
    world.nursery.close()
    path = world.folder / "recipe.yaml"
    own: dict[str, Any] = {"parallel": {"zero": 0, "precision": "fp32", "ranks": 1}}
    tree = world.recipe(2, 1000).model_dump(mode="json")
    own["data"] = {"packing": tree["data"]["packing"] | {"rows_per_step": 1, "window_steps": 64}}
    path.write_text(dump_recipe(world.recipe(far + 60, far, **own)))
    seconds: dict[str, list[float]] = {"at step 0": [], f"at step {far}": []}

    def command(run: str, until: int) -> float:
        words = ["train", str(path), "--run", str(world.folder / run), "--until", str(until)]
        subprocess.run(
            [sys.executable, "-P", "-m", "pretrain.cli.main", *words], check=True, stdout=subprocess.DEVNULL, env=ENV
        )
        moments = read_timeline(world.folder / run)
        newest = max(m["gen"] for m in moments)
        return next(m["t"] for m in moments if m["gen"] == newest and m["what"] == "ready") - next(
            m["t"] for m in moments if m["gen"] == newest and m["what"] == "start"
        )

    command("far", far)
    for turn in range(5):
        seconds["at step 0"].append(command(f"near-{turn}", 1))
        seconds[f"at step {far}"].append(command("far", far + 10 * (turn + 1)))
    middle = {name: median(values) for name, values in seconds.items()}
    return {"seconds": seconds, "median": middle, "ratio": middle[f"at step {far}"] / middle["at step 0"]}


def failing(minutes: float, **_: Any) -> dict[str, Any]:
    world = World()
    recipe = world.recipe(10_000_000, 50, parallel={"restarts": 100})
    over = time.time() + 60 * minutes
    killed: list[int] = []

    def kill(run: Path, pids: list[int]) -> None:
        chance = random.Random(1)
        wait_for_step(run, 1)
        while time.time() < over:
            time.sleep(min(60.0, max(0.0, over - time.time())))
            if time.time() < over:
                killed.append(chance.choice(pids))
                os.kill(killed[-1], signal.SIGKILL)
        for pid in list(pids):
            os.kill(pid, signal.SIGTERM)

    code = _one_start(world, world.folder / "failing", recipe, kill)
    world.nursery.close()
    spent = goodput(world.folder / "failing")
    return {"minutes": minutes, "failures": len(killed), "exit_code": code, **(spent or {})}


def verify(**_: Any) -> dict[str, Any]:
    from pretrain.checkpoint.files import sha256_of

    with tempfile.NamedTemporaryFile() as stream:
        stream.write(os.urandom(1 << 20) * 512)
        stream.flush()
        begun = time.process_time()
        sha256_of(stream.name)
        return {"mb_per_cpu_second": 512 * 1.048576 / (time.process_time() - begun)}


def main() -> None:
    parts = {"kills": kills, "preempt": preempt, "frozen": frozen, "start": start, "goodput": failing, "verify": verify}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()
    print(json.dumps({args.part: parts[args.part](times=args.times, minutes=args.minutes)}, indent=1))


if __name__ == "__main__":
    main()
