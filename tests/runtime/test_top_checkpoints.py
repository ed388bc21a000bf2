"""Which checkpoints stay where a recipe keeps the best ones."""

import pytest
from transformers import TrainerControl, TrainerState

from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.runtime.checkpoints import WholeCheckpoints, checkpoint_folder, checkpoint_folders
from hf_fer.task.find import parse_task

SCORES = {1: 0.3, 2: 0.9, 3: 0.5, 4: 0.8, 5: 0.1}


def kept(folder, **fields) -> list[int]:
    """Steps that are left after all of `SCORES` were saved, one after the other."""
    args = TrainingArguments(
        output_dir=str(folder), metric_for_best_model="score", use_cpu=True, report_to="none", **fields
    )
    callback, state = WholeCheckpoints(), TrainerState()
    callback.limit = args.save_total_limit
    for step, score in SCORES.items():
        state.global_step = step
        state.log_history.append({"step": step, "eval_score": score})
        checkpoint = checkpoint_folder(folder, step)
        checkpoint.mkdir()
        (checkpoint / "trainer_state.json").write_text("{}")
        callback.on_save(args, state, TrainerControl())
    return [int(path.name.split("-")[-1]) for path in checkpoint_folders(folder)]


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"save_top_k": 2}, [2, 4, 5]),
        ({"save_top_k": 2, "greater_is_better": False}, [1, 5]),
        ({"save_top_k": 1, "save_total_limit": 4}, [2, 5]),
        ({"save_total_limit": 2}, [4, 5]),
    ],
)
def test_the_best_and_the_newest_stay(tmp_path, fields, steps):
    assert kept(tmp_path, **fields) == steps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save_top_k", "0"], "save_top_k"),
        (["--save_top_k", "2", "--eval_strategy", "no", "--load_best_model_at_end", "false"], "needs evaluations"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(RecipeError, match=message):
        parse_task(["--task", "language_id", "--dataset", "demo", "--use_cpu", "true", *words])
