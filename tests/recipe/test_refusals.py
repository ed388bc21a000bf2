"""What cannot be run is one line before the data is read: numbers, loggers, folders."""

import dataclasses
import json
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
        ("learning_rate", float("inf"), False),
        ("train_fraction", 0.0, False),
        ("seed", 2**32 - 1, True),
        ("seed", 2**32, False),
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
        (["--label_names", "x"], "label_names is set by the system"),
        (["--prediction_loss_only", "true"], "prediction_loss_only must stay false"),
        (["--batch_eval_metrics", "true"], "batch_eval_metrics must stay false"),
        (["--optim", "lomo"], "optim: You need to install `lomo_optim`"),
        (["--optim_args", "zz"], "optim_args 'zz': .*; write optim_args as name=value"),
        (["--optim", "sgd", "--optim_args", "momentum=x"], "optim_args 'momentum=x': could not convert"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "'cosine_with_min_lr' with lr_scheduler_kwargs None: One of"),
        (["--lr_scheduler_kwargs", '{"a": 1}'], "'linear' with lr_scheduler_kwargs {'a': 1}: .*unexpected"),
        (["--use_liger_kernel", "true"], "use_liger_kernel needs liger-kernel"),
    ],
)
def test_one_line_before_the_data_is_read(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=message):
        run(parse_task(["--task", "multimodal_fer", "--dataset", "demo", "--use_cpu", "true", *argv]))


@pytest.mark.parametrize(
    ("system", "overrides", "message"),
    [
        ("language_id", {"hidden_size": "x"}, "no model can be built with .*expected int, got str"),
        ("language_id", {"hidden_size": -1}, "no model can be built with .*negative dimension"),
        ("language_id", {"vocab_size": 5}, "vocab_size 5 is less than the tokenizer's"),
        ("multimodal_fer", {"vision_config": 3}, "no model can be built with .*not a mapping"),
        ("multimodal_fer", {"vision_config": {"patch_size": 256}}, "patch_size must be from 1 to image_size"),
        ("speech_to_text", {"encoder_config": {"hidden_size": -1}}, "no model can be built with"),
    ],
)
def test_sizes_of_which_no_model_can_be_built(system, overrides, message):
    fields = ["--config_overrides", json.dumps(overrides), "--use_cpu", "true", "--dry_run", "true"]
    with pytest.raises(RecipeError, match=f"(?s)config_overrides: .*{message}"):
        run(parse_task([f"demo/{system}", *fields]))


def test_what_the_trainer_refuses_is_one_line(tmp_path):
    fields = ["--torch_compile_backend", "nope", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(RecipeError, match="The Trainer refuses fields of the recipe: 'NOPE' is not a valid"):
        run(parse_task(["demo/language_id", *fields]))


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
