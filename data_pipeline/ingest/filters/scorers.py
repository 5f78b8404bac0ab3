"""The user's models: kept samples of a unit and their pixels -> scores by name, or why a sample is rejected.

    filters: {scorers: [{name: clear, function: "pretrain.picture_score:Confidence", keep: "clear > 0.2"}]}

`function` names a class. One instance is made per worker, with no arguments, and called as
`instance(pictures, texts)`: for each sample of a batch a list of its pictures (uint8 [H, W, 3], read-only; none for
a sample of text only) and its text. It returns a number for each sample, or None where it has none, which `keep` sees
as null: `clear is None or clear > 0.2` keeps those. Naming a class runs its code (predicates.py says more).

- Batches are cut from a unit's samples in order, and a later scorer sees only what earlier ones kept: so no score
  depends on how many workers there are. A class should still score a sample by itself, not by its neighbours.
- Scores are rounded to DIGITS significant digits before `keep` sees them. The same sums in another order (a batch of
  1 instead of 32 through EfficientNet) differ by 1e-6 of a score in the middle, 8e-6 at most: of 320 scores 3 then
  differ at 4 digits, 143 at 6. So rounding makes most of it vanish, never all: bytes are the same for sure on
  processors of one kind. Give a class one thread, and ask for more workers.
- An exception that one sample causes rejects that sample (`scorer_error`, counted). One that a whole batch causes, or
  that speaks of memory, files or the network, says nothing about the samples: it is tried again, then ends the unit.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from configs.errors import UserError
from configs.ingest import ScorerConfig
from data_pipeline.ingest.filters.expression import Expression
from data_pipeline.ingest.filters.scorer_model import Answer, Batch, Model
from data_pipeline.ingest.filters.scorer_pool import Pool
from data_pipeline.sample import IMAGE_MARK, Reject, Sample


class Scorers:
    """The scorers of one recipe. Made by the driver, which closes it; handed to tasks, it carries handles only.

    Raises:
        UserError: two of one name, a `keep` that is no expression on its name, a class that is not there or fails.
    """

    def __init__(self, configs: Sequence[ScorerConfig], *, on_ray: bool):
        self.configs = list(configs)
        names = [config.name for config in configs]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"filters.scorers: two are named {name}: give each its own name")
        self.keep = [_keep(config) for config in configs]
        self.workers: list[Pool | Here] = []
        try:
            for config in configs:
                self.workers.append(Pool(config) if on_ray else Here(config))
        except BaseException:
            self.close()
            raise

    def score(self, samples: list[Sample], pixels: list[list[np.ndarray]]) -> list[dict[str, float] | Reject]:
        """Scores of each sample by name, rounded, or the first scorer's Reject.

        A unit's samples come in input order, whole or in parts that follow from the recipe alone: where batches are
        cut must not depend on what else runs.

        Raises:
            UserError: a class returned something else than a number per sample.
            RunError: a model failed for reasons that are not the samples'.
        """
        results: list[dict[str, float] | Reject] = [{} for _ in samples]
        for config, keep, worker in zip(self.configs, self.keep, self.workers, strict=True):
            left = [number for number, result in enumerate(results) if not isinstance(result, Reject)]
            cuts = [left[start : start + config.batch] for start in range(0, len(left), config.batch)]
            batches = (
                ([pixels[n] for n in cut], [text_of(samples[n]) for n in cut], samples[cut[0]].key) for cut in cuts
            )
            answers = (answer for batch in worker.answers(batches) for answer in batch)
            for number, answer in zip(left, answers, strict=True):
                known = results[number]
                assert isinstance(known, dict)
                results[number] = _verdict(config.name, keep, known, answer)
        return results

    def close(self) -> None:
        """End the actors."""
        for worker in self.workers:
            worker.close()


def _keep(config: ScorerConfig) -> Expression | None:
    if config.keep is None:
        return None
    expression = Expression(config.keep, f"filters.scorers {config.name}.keep")
    if expression.names != {config.name}:
        raise UserError(
            f"filters.scorers {config.name}.keep asks for {', '.join(sorted(expression.names)) or 'nothing'}: "
            f"write it on its own score, for example {config.name} > 0.5"
        )
    return expression


def _verdict(name: str, keep: Expression | None, known: dict[str, float], answer: Answer) -> dict[str, float] | Reject:
    if isinstance(answer, str):
        return Reject("filter", "scorer_error", f"{name}: {answer}")
    if keep and (why := keep.problem({name: answer})):
        return Reject("filter", f"score/{name}", why)
    return known if answer is None else {**known, name: answer}


def text_of(sample: Sample) -> str:
    """What a scorer reads: the caption or all turns, without the marks of pictures."""
    contents = [sample.text or ""] if sample.messages is None else [m.content for m in sample.messages]
    return "\n".join(contents).replace(IMAGE_MARK, "").strip()


class Here:
    """A scorer in this process. Nothing bounds how long a batch takes here."""

    def __init__(self, config: ScorerConfig):
        self.model = Model(config)
        self.model.load()

    def answers(self, batches: Iterator[Batch]) -> Iterator[list[Answer]]:
        for pictures, texts, _ in batches:
            yield self.model.score(pictures, texts)

    def close(self) -> None:
        self.model.instance = None
