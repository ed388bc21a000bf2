"""Two processes on the CPU do what one does with twice the batch."""

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from drills import two_processes
from models import suite_multimodal_fer as suite
from runs import AUDIO, ROOT, assert_same_weights, metrics_of, torchrun, write_recipe
from safetensors.torch import load_file
from torch import nn

from hf_fer.data.skipped import SkippedFile
from hf_fer.models.multimodal_fer import MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.train.clips import ClipTransform
from hf_fer.run import main
from hf_fer.runtime.checkpoints import damage
from hf_fer.runtime.processes import synchronise_batch_norm

BAD_CLIP = 5


@pytest.fixture(scope="module")
def fields(tmp_path_factory, small_ravdess) -> dict:
    """A model of two modalities, its audio encoder frozen, no dropout; pictures in one of the 7 clips to evaluate."""
    folder = tmp_path_factory.mktemp("sound")
    rows = [
        {"audio": str(path), "label": path.name[6:8], "group": path.parent.name, "split": split}
        for split, count in (("train", 24), ("validation", 7))
        for path in sorted(small_ravdess.rglob("*.mp4"))[{"train": 0, "validation": 64}[split] :][:count]
    ]
    rows[-1]["video"] = rows[-1]["audio"]
    missing = {"audio": str(folder / "gone.wav"), "label": rows[0]["label"], "group": "Actor_01", "split": "train"}
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, missing]))
    quiet = {"dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0}
    overrides = {
        **AUDIO["config_overrides"],
        "audio_config": {**AUDIO["config_overrides"]["audio_config"], **quiet},
        "vision_config": {
            "num_hidden_layers": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_attention_heads": 2,
        },
        "temporal_num_layers": 1,
        **dict.fromkeys(("dropout", "classifier_dropout", "modality_dropout"), 0.0),
    }
    return {
        "dataset": str(folder / "clips.jsonl"),
        "modalities": ["audio", "video"],
        "missing_modality": "keep",
        "config_overrides": overrides,
        "freeze": ["audio"],
        "num_frames": 2,
        "image_size": 32,
        "face_crop": "none",
        "max_eval_samples": None,
        "max_train_samples": None,
        "max_skipped_fraction": 0.1,
        "adam_epsilon": 1e-4,  # or a gradient that is all rounding would move its weight as far as any other
    }


def launch(*arguments: str, cold: bool = False) -> subprocess.CompletedProcess:
    return torchrun(str(ROOT / "tests" / "drills" / "two_processes.py"), *arguments, cold=cold)


@pytest.fixture(scope="module")
def together(tmp_path_factory, fields) -> Path:
    folder = tmp_path_factory.mktemp("together")
    done = launch(write_recipe(folder, **fields, per_device_train_batch_size=2), "--bad_clip", str(BAD_CLIP))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "out"


def history(folder: Path, name: str) -> np.ndarray:
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return np.array([entry[name] for entry in entries if name in entry])


def test_two_processes_equal_one_with_twice_the_batch(together, fields, tmp_path, monkeypatch):
    monkeypatch.setattr(ClipTransform, "example", ClipTransform.example)  # what spoil replaces comes back
    two_processes.spoil(BAD_CLIP)
    torch.set_num_threads(1)
    main([write_recipe(tmp_path, **fields, per_device_train_batch_size=4)])
    for name in ("loss", "grad_norm", "eval_accuracy", "eval_uar"):
        np.testing.assert_allclose(history(together, name), history(tmp_path / "out", name), rtol=0, atol=1e-5)
    expected = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in load_file(together / "model.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)
    one, two = metrics_of(tmp_path / "out")["validation"], metrics_of(together)["validation"]
    assert one["confusion_matrix"] == two["confusion_matrix"]


def test_a_bad_step_is_skipped_in_both(together):
    assert np.isnan(history(together, "grad_norm")).sum() == 2  # in one process's half of the batch, once an epoch
    assert metrics_of(together)["runtime"]["skipped_steps"] == 2
    assert all(torch.isfinite(value).all() for value in load_file(together / "model.safetensors").values())


def test_each_example_is_evaluated_once(together):
    metrics = metrics_of(together)
    assert metrics["runtime"]["batch"] == "2 x 1 x 2"
    assert metrics["validation"]["samples"] == 7
    assert np.sum(metrics["validation"]["confusion_matrix"]) == 7
    assert np.sum(metrics["validation"]["audio_only"]["uar"]) <= 1


def test_one_list_of_skipped_clips(together):
    lines = (together / "report" / "skipped.jsonl").read_text().splitlines()
    assert len(lines) == len(SkippedFile(together / "report" / "skipped.jsonl").read()) == 1


def test_a_signal_to_one_process_stops_both(together, fields, tmp_path):
    path = write_recipe(tmp_path, **fields, per_device_train_batch_size=2)
    stopped = launch(path, "--bad_clip", str(BAD_CLIP), "--stop_at", "7", cold=True)
    assert stopped.returncode != 0
    assert "checkpoint-8 is saved" in stopped.stderr
    assert "exitcode  : 143" in stopped.stderr
    checkpoint = tmp_path / "out" / "checkpoint-8"
    assert damage(checkpoint) is None
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {file.name for file in checkpoint.iterdir()}
    resumed = launch(path, "--bad_clip", str(BAD_CLIP), "--resume_from_checkpoint", "true")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert_same_weights(tmp_path / "out", together)


def test_one_that_is_killed_ends_the_other_with_a_message(fields, tmp_path):
    path = write_recipe(tmp_path, **fields, per_device_train_batch_size=2)
    began = time.monotonic()
    killed = launch(path, "--bad_clip", "-1", "--kill_at", "3")
    assert killed.returncode != 0
    assert "Another process of this run has ended" in killed.stderr
    assert "exitcode  : -9" in killed.stderr
    assert time.monotonic() - began < 300


def test_a_launcher_that_starts_one_process_of_unknown_many_is_told_of(fields, tmp_path, monkeypatch, capsys):
    """The variables of `accelerate launch --cpu --num_processes 2`, without the launcher that knows the number."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(SystemExit) as stopped:
        main([write_recipe(tmp_path, **fields)])
    assert stopped.value.code == 2
    assert "torchrun --nproc_per_node" in capsys.readouterr().err


def test_a_part_that_trains_later_beside_gradient_checkpointing(fields, tmp_path):
    """For which the Trainer would have DDP wait for the gradients of the frozen part."""
    own = {"freeze": [], "unfreeze": {"audio": 1}, "gradient_checkpointing": True, "num_train_epochs": 2}
    done = launch(write_recipe(tmp_path, **{**fields, **own}, per_device_train_batch_size=2), "--bad_clip", "-1")
    assert done.returncode == 0, done.stderr[-3000:]


def test_machines_that_would_go_on_from_different_places(tmp_path):
    script = (
        "import os, pathlib\n"
        "from hf_fer.recipe.arguments import RecipeError, TrainingArguments\n"
        "from hf_fer.runtime.checkpoints import write_manifest\n"
        "from hf_fer.runtime.preparation import prepare_output\n"
        "folder = pathlib.Path(f'machine_{os.environ[\"RANK\"]}')\n"
        "if os.environ['RANK'] == '0':\n"
        "    (folder / 'checkpoint-4').mkdir(parents=True)\n"
        "    write_manifest(folder / 'checkpoint-4')\n"
        "args = TrainingArguments(output_dir=str(folder), resume_from_checkpoint='true', use_cpu=True)\n"
        "try:\n"
        "    prepare_output(args)\n"
        "except RecipeError as error:\n"
        "    print(error, flush=True)\n"
    )
    (tmp_path / "machines.py").write_text(script)
    done = torchrun("machines.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("would resume from different checkpoints, False, machine_0/checkpoint-4") == 2


def test_batch_norm_is_synchronised_where_it_trains():
    model = MultimodalFerForEmotionClassification(suite.config())
    keys, count = list(model.state_dict()), sum(isinstance(part, nn.BatchNorm1d) for part in model.modules())
    assert count
    model.freeze(["audio"])
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in synchronise_batch_norm(model).modules())
    model.model.audio_encoder.requires_grad_(True)
    with torch.no_grad():
        expected = model.eval()(**suite.batch()).logits
    synchronise_batch_norm(model)
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in model.modules()) == count
    assert list(model.state_dict()) == keys
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**suite.batch()).logits, expected, rtol=0, atol=0)
