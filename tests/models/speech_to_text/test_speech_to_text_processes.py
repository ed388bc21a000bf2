"""Two processes on the CPU do what one does with twice the batch, with batches by number and by seconds."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from media import write_clip
from models.speech_to_text.recipes import TINY, recipe_of, task_of
from runs import ROOT, torchrun
from safetensors.torch import load_file

from hf_fer.models.speech_to_text.train.demo import make_demo, spoken
from hf_fer.run import main

QUIET = dict.fromkeys(("dropout", "activation_dropout", "attention_dropout"), 0.0)
FIELDS = {
    "config_overrides": {"encoder_config": {**TINY, **QUIET}},
    "num_train_epochs": 2,
    "logging_steps": 1,
    "do_predict": False,
    "metric_for_best_model": "loss",
    "adam_epsilon": 1e-4,  # or a gradient that is all rounding would move its weight as far as any other
}


@pytest.fixture(scope="module")
def equally_long(tmp_path_factory):
    """Recordings of one length, so that batches of any size have the same padding."""
    folder, draw, rows = tmp_path_factory.mktemp("equal"), np.random.default_rng(0), []
    for number in range(24):
        word = ("ba", "mèo", "nam")[number % 3]
        samples = np.zeros(16000, np.float32)
        found = spoken(word, 1.0, 1.0, draw)[:16000]
        samples[: len(found)] = found
        write_clip(folder / f"{number}.wav", audio=samples[None])
        rows.append({"file_path": f"{number}.wav", "transcript": word, "split": "val" if number > 15 else "train"})
    pd.DataFrame(rows).to_csv(folder / "equal.csv", index=False)
    return folder / "equal.csv"


def trained(folder, manifest, processes, **fields):
    """Train in one process or two; returns the folder of the run."""
    folder.mkdir()
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe_of(manifest, folder / "out", **{**FIELDS, **fields})))
    if processes == 1:
        torch.set_num_threads(1)
        main([str(path)])
        return folder / "out"
    done = torchrun(str(ROOT / "hf_fer" / "run.py"), str(path))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "out"


def history(folder, name):
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return np.array([entry[name] for entry in entries if name in entry])


def assert_equal(one, two, without=()):
    np.testing.assert_allclose(history(two, "loss"), history(one, "loss"), rtol=0, atol=1e-4)
    np.testing.assert_allclose(history(two, "grad_norm"), history(one, "grad_norm"), rtol=1e-3)
    expected = load_file(one / "model.safetensors")
    for name, value in load_file(two / "model.safetensors").items():
        if not name.endswith(without):
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


def test_two_processes_equal_one_with_twice_the_batch(equally_long, tmp_path):
    """BatchNorm, whose statistics are those of a process's half of the batch on a CPU, is frozen."""
    fields = {"freeze": ["encoder.layers.0.conv.norm"], "augment": False, "train_sampling_strategy": "random"}
    two = trained(tmp_path / "two", equally_long, 2, **fields, per_device_train_batch_size=2)
    one = trained(tmp_path / "one", equally_long, 1, **fields, per_device_train_batch_size=4)
    assert_equal(one, two)
    for name in ("eval_wer", "eval_cer", "eval_blank_share", "eval_loss"):
        np.testing.assert_allclose(history(two, name), history(one, name), rtol=0, atol=1e-5)


def test_batches_by_seconds_are_those_of_one_process_that_accumulates(tmp_path):
    """
    Each batch is the same in both, with its padding, its augmentation and its BatchNorm.

    There are eight, an even number: of an odd one, two processes would repeat the first batch in the last step.
    """
    manifest = make_demo(tmp_path)
    fields = {"batch_seconds": 12, "max_seconds": 10, "augmentation": None, "max_train_samples": 40}
    two = trained(tmp_path / "two", manifest, 2, **fields)
    one = trained(tmp_path / "one", manifest, 1, **fields, gradient_accumulation_steps=2)
    assert_equal(one, two, without=("running_mean", "running_var", "num_batches_tracked"))


def test_a_frozen_encoder_keeps_its_statistics(equally_long, tmp_path):
    task = task_of(equally_long, tmp_path, freeze=["encoder"])
    data = task.load_data()
    processor = task.build_processor(data)
    model = task.build_model(data, processor)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    batch = task.collator(processor)([task.with_transforms(data, processor, None)["validation"][0]])
    model.train()(**batch).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert model.ctc_head.weight.grad is not None
