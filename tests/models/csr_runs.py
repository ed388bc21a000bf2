"""Small runs of csr's three stages that several tests make and compare."""

import json
import os
from pathlib import Path

import torch

from hf_fer.experiment.stages import main as run_stages

FAST = {
    "task": "csr",
    "dataset": "demo",
    "max_train_samples": 48,
    "max_eval_samples": 24,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "learning_rate": 0.01,
    "logging_steps": 2,
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
}
BACKBONE = {"hidden_sizes": [16, 24], "depths": [1, 1], "num_stages": 2, "layer_scale_init_value": 0.1}
STAGES = {
    1: {
        "stage": 1,
        "backbone": "convnext",
        "image_size": 48,
        "config_overrides": {"backbone_config": BACKBONE, "num_prototypes": 2, "prototype_size": 8},
        "metric_for_best_model": "concept_auroc",
        "output_dir": "out/1",
    },
    2: {"stage": 2, "model_name_or_path": "out/1", "metric_for_best_model": "loss", "output_dir": "out/2"},
    3: {"stage": 3, "model_name_or_path": "out/2", "metric_for_best_model": "macro_f1", "output_dir": "out/3"},
}


def write_recipes(folder: Path, **fields) -> list[str]:
    """The three recipes, whose folders are relative to where they are run."""
    paths = []
    for number, own in STAGES.items():
        path = folder / f"csr_{number}.json"
        path.write_text(json.dumps({**FAST, **own, **fields}))
        paths.append(str(path))
    return paths


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "report" / "metrics.json").read_text())


def train_stages(folder: Path) -> Path:
    """Train the three recipes in the folder; returns it."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        torch.set_num_threads(1)
        run_stages(write_recipes(folder))
    finally:
        os.chdir(here)
    return folder
