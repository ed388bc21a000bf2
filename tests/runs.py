"""Small runs of run.py that several tests make and compare."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import warm
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent

AUDIO = {
    "task": "multimodal_fer",
    "model_size": "tiny",
    "modalities": ["audio"],
    "config_overrides": {
        "audio_config": {
            "num_hidden_layers": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "subsampling_conv_channels": 4,
        },
        "lfm2_config": {"hidden_size": 32, "intermediate_size": 32},
        "classifier_hidden_size": 16,
    },
    "augmentation": {"stretch": 0},
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.001,
    "logging_steps": 1,
    "max_train_samples": 24,
    "max_eval_samples": 8,
    "do_predict": False,
    "metric_for_best_model": "loss",
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
}
"""Twelve steps in two epochs, on sound alone, with dropout and augmentation on."""


def write_recipe(folder: Path, **fields: Any) -> str:
    """A recipe file whose run writes to `folder/out` unless the fields say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.json"
    path.write_text(json.dumps({**AUDIO, "output_dir": str(folder / "out"), **fields}))
    return str(path)


def torchrun(*arguments: str, cold: bool = False, **settings: Any) -> subprocess.CompletedProcess:
    """
    Run a script in two processes.

    Args:
        arguments: The script and its arguments, or `-m`, a module and its arguments.
        cold: Let launcher and processes import everything themselves.
        settings: Of `subprocess.run`.
    """
    starter, worker = (sys.executable,) * 2 if cold else (warm.python("libraries"), warm.python())
    return subprocess.run(
        [starter, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments],
        env={**os.environ, "PYTHON_EXEC": worker},
        capture_output=True,
        text=True,
        check=False,
        **settings,
    )


def metrics_of(folder: Path) -> dict[str, Any]:
    """The report's numbers."""
    return json.loads((folder / "report" / "metrics.json").read_text())


def assert_same_weights(folder: Path, other: Path) -> None:
    """Two saved models are equal bit for bit."""
    found, expected = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert found.keys() == expected.keys()
    different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    assert not different
