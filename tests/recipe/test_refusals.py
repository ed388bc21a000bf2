"""What cannot be run is one line before the data is read: numbers, loggers, folders."""

import dataclasses
import typing

import pytest

from hf_fer.data.sources import looks_local
from hf_fer.experiment.one_run import run
from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.recipe.ranges import RANGES, out_of_range
from hf_fer.task.base import task_names
from hf_fer.task.find import load_task, parse_task

# Checked where they are declared, free of bounds, or deprecated.
CHECKED_ELSEWHERE = {
    "abstention_coverage", "abstention_risk", "accepted_fraction", "beam_width", "fold", "lm_order",
    "near_duplicate_threshold", "noise_confidence", "num_folds", "overlap", "token_dropout", "vocab_size",
    "warmup_ratio", "word_score",
}  # fmt: skip


def numeric_fields() -> set[str]:
    """Names of all fields of all systems that are one number."""
    tasks = [load_task(name) for name in task_names()]
    classes = {TrainingArguments, *(kind for task in tasks for kind in (task.model_arguments, task.data_arguments))}
    hints = [
        (field.name, typing.get_type_hints(kind)[field.name]) for kind in classes for field in dataclasses.fields(kind)
    ]
    return {name for name, hint in hints if {int, float} & {hint, *typing.get_args(hint)}}


def test_every_number_of_a_recipe_has_a_range():
    lists = {"image_mean", "image_std", "short_lengths", "stage", "ngram_min_counts"}
    assert numeric_fields() - RANGES.keys() - CHECKED_ELSEWHERE - lists == set()
    assert RANGES.keys() <= numeric_fields()


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("num_frames", -3, False),
        ("num_frames", 1, True),
        ("learning_rate", -1.0, False),
        ("learning_rate", float("nan"), False),
        ("train_fraction", 0.0, False),
        ("max_skipped_fraction", 1.0, True),
        ("max_train_samples", None, True),
    ],
)
def test_ranges(name, value, fits):
    assert (out_of_range(name, value) is None) == fits


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num_frames", "-3"], "num_frames must be at least 1, got -3"),
        (["--learning_rate", "-1"], "learning_rate must be at least 0, got -1"),
        (["--report_to", "neptune"], "'neptune' is not installed"),
        (["--report_to", "tensorbord"], "did you mean 'tensorboard'"),
        (["--model_name_or_path", "./outptus/mine"], "there is no such folder"),
        (["--model_name_or_path", "output/mine"], "there is no such folder"),
        (["--dataset", "data/ravdes"], "has no data"),
    ],
)
def test_one_line_before_the_data_is_read(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=message):
        run(parse_task(["--task", "multimodal_fer", "--dataset", "demo", "--use_cpu", "true", *argv]))


def test_backbone_weights_by_a_name_of_the_hub_say_how_to_get_them():
    argv = ["--task", "csr", "--dataset", "demo", "--use_cpu", "true", "--backbone_weights", "facebook/vit-mae-base"]
    with pytest.raises(RecipeError, match="hf download facebook/vit-mae-base"):
        parse_task(argv)


def test_names_of_the_hub_are_left_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not looks_local("google/siglip2-base-patch16-224")
    assert not looks_local("gpt2")
    (tmp_path / "training").mkdir()
    assert looks_local("trainng/mine")
