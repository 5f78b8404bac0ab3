"""A recipe trained into a run folder: what is there is gone on with, what is done is not done again."""

from pathlib import Path

from cluster.heartbeat import Heart
from cluster.preempt import Stop
from configs.schema import TrainRecipe
from data_pipeline import storage
from pretrain.agree import from_first
from pretrain.checkpoint import choose
from pretrain.checkpoint.head import Fenced
from pretrain.mesh import Mesh
from pretrain.run_folder import check_run_folder, checkpoints_of, finish, steps_of
from pretrain.trainer import Preempted, Trainer


def train(
    recipe: TrainRecipe,
    run: str | Path,
    mesh: Mesh,
    until: int | None = None,
    resume_from: str | None = None,
    heart: Heart | None = None,
    stop: Stop | None = None,
) -> bool:
    """Train a recipe into a run folder; goes on from its newest checkpoint. Returns whether there was anything to do."""
    folder = Path(run)
    steps = min(until or recipe.stage.steps, recipe.stage.steps)
    check_run_folder(folder, recipe)
    if (folder / "checkpoints").exists():
        storage.known_to_answer(checkpoints_of(folder))
    if max(from_first(mesh, steps_of(folder)), default=0) >= steps and (newest := choose.newest_shared(folder, mesh)):
        done = newest.step
    else:
        done = 0  # what there is is looked at when it is taken up
    if done >= steps:
        if mesh.is_first:
            print(f"{folder} has step {done} of {recipe.stage.steps} already: nothing to train", flush=True)
            finish(folder, done, recipe.stage.steps)
        return False
    trainer = Trainer(recipe, folder, mesh, resume_from, heart, stop)
    try:
        trainer.run(until)
        return True
    except (Preempted, Fenced):
        raise  # nothing failed, and the status says what happened; of a run that was taken over it is not ours to write
    except BaseException:
        trainer.record.status("failed", trainer.step)
        raise
    finally:
        trainer.close()
