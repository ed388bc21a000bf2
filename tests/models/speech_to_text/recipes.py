"""Small recipes of speech_to_text that several tests run."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_fer.task.base import Task
from hf_fer.task.find import build_task

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "subsampling_conv_channels": 16,
}
DECODERS = {"beam_width": 8, "lm": "train", "lm_order": 2} if find_spec("kenlm") and find_spec("flashlight") else {}


def recipe_of(manifest: Path, output_dir: Path, **fields: Any) -> dict[str, Any]:
    """The recipe of a model of one layer and one epoch on 24 recordings; `None` leaves a field out."""
    recipe = {
        "task": "speech_to_text",
        "dataset": str(manifest),
        "config_overrides": {"encoder_config": TINY},
        "augmentation": {"resample": 0},
        "output_dir": str(output_dir),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 0.004,
        "max_train_samples": 24,
        "max_eval_samples": 8,
        "train_sampling_strategy": "group_by_length",
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
        **fields,
    }
    return {name: value for name, value in recipe.items() if value is not None}


def task_of(manifest: Path, output_dir: Path, **fields: Any) -> Task:
    """The task of `recipe_of`."""
    return build_task(recipe_of(manifest, output_dir, **fields), "recipe", [])
