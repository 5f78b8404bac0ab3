"""Scorers: batches in order, verdicts, failures; and a pool of actors that answers as this process does."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import RunError, UserError
from configs.ingest import RayConfig, ScorerConfig
from data_pipeline.ingest.filters import scorer_model
from data_pipeline.ingest.filters.scorers import Scorers, text_of
from data_pipeline.sample import IMAGE_MARK, Message, Reject, Sample
from tests.data_pipeline.ingest.filters.conftest import pixels, sample

Write = Callable[[str, str], Path]
MODELS = '''
import os, signal, time
from pathlib import Path

HERE = Path(__file__).parent

def brightest(pictures):
    return max((picture.mean() for picture in pictures), default=None)

class Brightness:
    """Divided by the batch's size, so that another cut of batches would show."""
    def __call__(self, pictures, texts):
        with open(HERE / "calls", "a") as log:
            print(os.getpid(), *texts, sep=",", file=log)
        return [None if not p else brightest(p) / 3 / len(texts) for p in pictures]

class Length:
    def __call__(self, pictures, texts):
        return [len(text) for text in texts]

class Mortal(Brightness):
    """Kills its own process in the middle, the first time."""
    def __call__(self, pictures, texts):
        if "number 5" in texts and not (HERE / "died").exists():
            (HERE / "died").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(pictures, texts)

class Slow(Brightness):
    """Hangs the first time."""
    def __call__(self, pictures, texts):
        if not (HERE / "hung").exists():
            (HERE / "hung").write_text("")
            time.sleep(600)
        return super().__call__(pictures, texts)

class Poisoned:
    def __call__(self, pictures, texts):
        os._exit(1)

class Picky:
    def __call__(self, pictures, texts):
        if "number 2" in texts:
            raise ValueError("I do not like\\nnumber 2")
        return [1.0] * len(texts)

class Broken:
    def __call__(self, pictures, texts):
        raise ValueError("whatever it is")

class Confused:
    """Well after it was started anew, as a GPU would be."""
    def __init__(self):
        self.well = (HERE / "confused").exists()
        (HERE / "confused").write_text("")
    def __call__(self, pictures, texts):
        if not self.well:
            raise RuntimeError("device-side assert")
        return [1.0] * len(texts)

class Full:
    calls = 0
    def __call__(self, pictures, texts):
        Full.calls += 1
        if Full.calls < 3:
            raise OSError("no space for a moment")
        return [1.0] * len(texts)

class Writer:
    def __call__(self, pictures, texts):
        pictures[0][0][:] = 0
        return [1.0] * len(texts)

class Few:
    def __call__(self, pictures, texts): return [1.0]
class Words:
    def __call__(self, pictures, texts): return ["0.5"] * len(texts)
class Alone:
    def __call__(self, pictures, texts): return 1.0
class Nan:
    def __call__(self, pictures, texts): return [float("nan") if "3" in text else 0.123456 for text in texts]
class Unmade:
    def __init__(self, size): pass
'''


def config(name: str, kind: str, **more: Any) -> ScorerConfig:
    return ScorerConfig(name=name, function=f"models:{kind}", **{"batch": 4, **more})


def world(count: int) -> tuple[list[Sample], list[list[np.ndarray]]]:
    return [sample(n, f"number {n}") for n in range(count)], [pixels(10 * n) for n in range(count)]


@pytest.fixture
def models(user_module: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scorer_model, "PAUSE", 0.0)
    return user_module("models", MODELS)


def here(*configs: ScorerConfig) -> Scorers:
    return Scorers(configs, on_ray=False)


def test_scores_keep_their_order_and_batches_are_cut_in_order(models: Path) -> None:
    scored = here(config("bright", "Brightness")).score(*world(10))
    assert scored == [{"bright": float(f"{10 * n / 3 / (4 if n < 8 else 2):.4g}")} for n in range(10)]
    batches = [line.split(",")[1:] for line in (models / "calls").read_text().splitlines()]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [text for batch in batches for text in batch] == [f"number {n}" for n in range(10)]


def test_what_one_scorer_refuses_the_next_one_never_sees(models: Path) -> None:
    first = config("bright", "Brightness", batch=1, keep="bright > 5")
    scored = here(first, config("chars", "Length", keep="chars < 9")).score(*world(11))
    assert scored[:2] == [Reject("filter", "score/bright", f"bright={value}") for value in ("0.0", "3.333")]
    assert scored[2] == {"bright": 6.667, "chars": 8.0}
    assert scored[10] == Reject("filter", "score/chars", "chars=9.0")
    again = here(first, config("seen", "Brightness", batch=3)).score(*world(3))
    assert again[2] == {"bright": 6.667, "seen": 6.667}  # alone in its batch


def test_without_a_score(models: Path) -> None:
    """Text alone: None is no score; `keep` sees null."""
    samples, pictures = [sample(0, pictures=0), sample(1)], [[], pixels(90)]
    for keep, first in (
        (None, {}),
        ("bright > 1", Reject("filter", "score/bright", "bright is null")),
        ("bright is None or bright > 1", {}),
    ):
        assert here(config("bright", "Brightness", keep=keep)).score(samples, pictures) == [first, {"bright": 15.0}]
    assert here(config("bright", "Brightness")).score([], []) == []


def test_scorers_read_text_without_marks() -> None:
    turns = (Message("user", f"{IMAGE_MARK}what?"), Message("assistant", "a cat"))
    assert text_of(sample(turns=turns)) == "what?\na cat" and text_of(sample(text=f"{IMAGE_MARK} a")) == "a"


def test_a_sample_that_fails_is_rejected_and_its_neighbours_are_not(models: Path) -> None:
    scored = here(config("picky", "Picky")).score(*world(6))
    assert scored[2] == Reject("filter", "scorer_error", "picky: ValueError: I do not like")
    assert scored[:2] + scored[3:] == [{"picky": 1.0}] * 5
    odd = here(config("odd", "Nan")).score(*world(4))
    assert odd == [{"odd": 0.1235}] * 3 + [Reject("filter", "scorer_error", "odd: the score is nan")]


def test_a_model_that_fails_on_all_says_nothing_about_samples(models: Path) -> None:
    said = r"filters.scorers bad failed on each of 4 samples \(ValueError: whatever it is\): mend models:Broken"
    with pytest.raises(RunError, match=said):
        here(config("bad", "Broken")).score(*world(4))


def test_what_may_pass_is_tried_again(models: Path) -> None:
    assert here(config("full", "Full")).score(*world(2)) == [{"full": 1.0}] * 2


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Few", "returned 1 scores for 3 samples: models:Few must return a number or None for each sample"),
        ("Words", "returned str as a score"),
        ("Alone", "returned float, not a list"),
        ("Unmade", r"models:Unmade\(\) fails \(TypeError: .*\): it is made without arguments"),
        ("Missing", "there is no Missing in models"),
    ],
)
def test_a_class_that_is_no_scorer_is_said(models: Path, kind: str, said: str) -> None:
    with pytest.raises(UserError, match=f"filters.scorers it.*{said}"):
        here(config("it", kind)).score(*world(3))


def test_pictures_are_read_only_as_on_ray(models: Path) -> None:
    samples, pictures = world(2)
    scored = here(config("w", "Writer", batch=1)).score(samples, pictures)
    assert all(isinstance(result, Reject) and "read-only" in result.detail for result in scored)
    assert pictures[1][0].max() == 10 and pictures[1][0].flags.writeable


def test_mistakes_in_the_recipe(models: Path) -> None:
    for configs, said in (
        ([config("a", "Length"), config("a", "Length")], "two are named a"),
        ([config("a", "Length", keep="b > 1")], "filters.scorers a.keep asks for b: write it on its own score"),
        ([config("a", "Length", keep="a >")], "filters.scorers a.keep: invalid syntax"),
        ([config("a", "Length", keep="f(a)")], "Call is not known at column 1"),
    ):
        with pytest.raises(UserError, match=said.replace("(", r"\(")):
            here(*configs)


def test_it_travels_without_models(models: Path) -> None:
    """What a task is handed is small and holds the verdicts' rules."""
    made = pickle.loads(pickle.dumps(Scorers([], on_ray=True)))
    assert made.score(*world(2)) == [{}, {}]


@pytest.fixture
def ray_here(models: Path) -> Iterator[None]:
    from data_pipeline.ingest.ray_local import local_ray

    with local_ray(RayConfig(workers=2)):
        yield


@pytest.mark.slow
def test_a_pool_answers_as_this_process_does(ray_here: None, models: Path) -> None:
    """From this process and from tasks; an actor killed and one that hangs in the middle; then what it refuses.

    One Ray for all of these: each start costs seconds.
    """
    import ray

    samples, pictures = world(24)
    expected = here(config("bright", "Brightness", keep="bright < 15")).score(samples, pictures)
    assert any(isinstance(result, Reject) for result in expected)

    pool = Scorers([config("bright", "Mortal", workers=2, keep="bright < 15")], on_ray=True)

    @ray.remote(num_cpus=0.5)
    def task(scorers: Scorers, start: int) -> Any:
        return scorers.score(samples[start : start + 12], pictures[start : start + 12])

    assert pool.score(samples, pictures) == expected
    assert not Path("/proc", (models / "died").read_text()).exists(), "nobody was killed"
    parts = ray.get([task.remote(pool, start) for start in (0, 12)], timeout=120)
    assert [*parts[0], *parts[1]] == expected
    assert len(_callers(models) - {str(os.getpid())}) >= 2, "one worker did it all"
    pool.close()

    slow = Scorers([config("bright", "Slow", seconds=1.5)], on_ray=True)
    assert slow.score(samples[:4], pictures[:4]) == here(config("bright", "Brightness")).score(
        samples[:4], pictures[:4]
    )
    slow.close()

    confused = Scorers([config("c", "Confused")], on_ray=True)
    assert confused.score(samples[:4], pictures[:4]) == [{"c": 1.0}] * 4
    confused.close()

    for kind, said in (
        ("Poisoned", "a worker died 4 times at the batch of 4 samples from 000000000000 on"),
        ("Broken", "failed on each of 4 samples"),
    ):
        bad = Scorers([config("bad", kind)], on_ray=True)
        with pytest.raises(RunError, match=said) as caught:
            bad.score(samples[:4], pictures[:4])
        assert "\n" not in str(caught.value)
        bad.close()
    for settings, said in (
        ({"kind": "Unmade"}, "models:Unmade.. fails"),
        ({"kind": "Length", "cpus": 3, "seconds": 1}, "1 of 1 workers are not ready after 1 s"),
        ({"kind": "Length", "cpus": 1, "workers": 2}, "its workers hold 2 of 2 processors, none is left"),
    ):
        with pytest.raises(UserError, match=said):
            Scorers([config("bad", **settings)], on_ray=True)


def _callers(models: Path) -> set[str]:
    return {line.split(",")[0] for line in (models / "calls").read_text().splitlines()}
