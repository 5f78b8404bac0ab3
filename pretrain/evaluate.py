"""Scores of a run: question answering against blind baselines, the image-swap test, caption retrieval, held-out loss.

Each rank holds a whole copy of the weights (no ZeRO, no TP) and does its share; the only collectives are those of the
feature cache and the gathering of results.

    vqa.py       questions, each in a fresh conversation        baselines.py, swap.py, questions.py
    captions.py  the right caption among 100                    retrieval.py
    heldout.py   mean loss of the learned tokens
"""

import json
import time
from pathlib import Path
from typing import Any

from configs.errors import UserError
from data_pipeline.storage import put
from pretrain.answering import open_run
from pretrain.captions import evaluate_captions
from pretrain.mesh import Mesh
from pretrain.vqa import evaluate_questions


def evaluate(
    mesh: Mesh, run: str, out: str, vqa: dict[str, str] | None = None, caption: dict[str, str] | None = None
) -> dict[str, Any]:
    """Evaluate RUN[@STEP] and write OUT/evaluation.json (and predictions.jsonl for questions). All ranks call it.

    Args:
        vqa: {"train": dataset, "test": dataset}: questions; train fits the text-only baseline.
        caption: {"train": dataset, "heldout": dataset}: pictures with captions.
    Raises:
        UserError: nothing to evaluate, or no questions or captions in what was given.
    """
    if not vqa and not caption:
        raise UserError("evaluate has no data: give a dataset of questions or of captions")
    start = time.perf_counter()
    opened = open_run(run, mesh)
    folder = Path(out)
    results: dict[str, Any] = {"run": run, "step": opened.step}
    if vqa:
        results["vqa"], results["image_swap"] = evaluate_questions(opened, folder, vqa["train"], vqa["test"])
    if caption:
        results["caption"] = evaluate_captions(opened, folder, caption["train"], caption["heldout"])
    results["seconds"] = time.perf_counter() - start
    if mesh.is_first:
        put(str(folder / "evaluation.json"), json.dumps(results, indent=1).encode())
        print(summary_of(results), flush=True)
    return results


def summary_of(results: dict[str, Any]) -> str:
    """The table that the console shows."""
    lines = [f"evaluation of {results['run']} (step {results['step']}, {results['seconds']:.0f} s)"]
    if "vqa" in results:
        lines += _questions(results["vqa"], results["image_swap"])
    if "caption" in results:
        caption = results["caption"]
        name = next(key for key in caption if key.startswith("retrieval"))
        low, high = caption["interval"]
        lines += [
            f"  {name.replace('_', ' '):<26} {caption[name]:.3f}   95 % interval {low:.3f}-{high:.3f}   chance {caption['chance']:.3f}",
            f"  held-out loss              {caption['heldout_loss']['loss']:.3f}   over {caption['heldout_loss']['tokens']:,} tokens",
        ]
    return "\n".join(lines)


def _questions(vqa: dict[str, Any], swap: dict[str, Any]) -> list[str]:
    blind = vqa["text_only_by_type"]
    lines = [
        f"  {'questions':<14} {'model':>6} {'text only':>10}   ({vqa['questions']:,} questions; the commonest answer {vqa['majority']:.3f})",
        f"  {'all':<14} {vqa['accuracy']:>6.3f} {vqa['text_only']:>10.3f}",
    ]
    lines += [f"    {name:<12} {share:>6.3f} {blind[name]:>10.3f}" for name, share in vqa["by_type"].items()]
    lines.append(f"    {'blank picture':<12} {swap['blank_accuracy']:.3f}")
    if swap["pairs"]:
        lines.append(
            f"  image swap     both of a pair right {swap['pair_accuracy']:.3f} ({swap['pairs']:,} pairs); loss with the "
            f"right / wrong / blank picture {swap['right']:.3f} / {swap['wrong']:.3f} / {swap['blank']:.3f}, p {swap['p_value']:.4f}"
        )
    else:
        lines.append("  image swap     no pair: no question text has two different answers")
    heldout = vqa["heldout_loss"]
    return [*lines, f"  held-out loss  {heldout['loss']:.3f} over {heldout['tokens']:,} tokens"]
