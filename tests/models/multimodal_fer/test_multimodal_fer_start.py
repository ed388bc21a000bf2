"""Starting from a checkpoint: what it settles, and other classes."""

import json
from pathlib import Path

import pytest
import torch
from experiment.test_run import FAST
from runs import ROOT
from safetensors.torch import load_file

from hf_fer.models.multimodal_fer.train.building import base_processor
from hf_fer.recipe.arguments import RecipeError
from hf_fer.run import main
from hf_fer.task.find import parse_task


@pytest.fixture
def recipe(tmp_path, small_ravdess):
    def write(**fields) -> str:
        path = tmp_path / "recipe.json"
        whole = {**FAST, "dataset": str(small_ravdess), "output_dir": str(tmp_path / "out"), **fields}
        path.write_text(json.dumps(whole))
        return str(path)

    return write


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_ravdess) -> Path:
    """A model of sound and pictures."""
    folder = tmp_path_factory.mktemp("trained")
    own = {"dataset": str(small_ravdess), "output_dir": str(folder / "out"), "num_train_epochs": 1}
    (folder / "r.json").write_text(json.dumps({**FAST, **own, "max_train_samples": 8}))
    main([str(folder / "r.json")])
    return folder / "out"


def test_other_classes_get_another_classifier(recipe, trained):
    """As many as before, so that the old one would fit."""
    task = parse_task([recipe(model_name_or_path=str(trained))])
    data = task.load_data()
    processor = task.build_processor(data)
    old = load_file(trained / "model.safetensors")
    assert torch.equal(task.build_model(data, processor).classifier[-1].weight, old["classifier.4.weight"])
    data.labels = [f"{name} x" for name in data.labels]
    state = task.build_model(data, processor).state_dict()
    assert not torch.equal(state["classifier.4.weight"], old["classifier.4.weight"])
    encoder = next(name for name in old if name.startswith("model.audio_encoder") and name.endswith("weight"))
    assert torch.equal(state[encoder], old[encoder])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 5}, "num_frames 5: .* was trained with 2, which cannot change"),
        ({"num_frames": 16}, "num_frames 16: .* was trained with 2"),
        ({"trim_silence_db": 20}, "trim_silence_db 20.0: .* was trained with None"),
        ({"audio_backbone": "nvidia/parakeet"}, "audio_backbone 'nvidia/parakeet': .* was trained with None"),
    ],
)
def test_what_a_checkpoint_settles_is_not_dropped_without_a_word(recipe, trained, fields, message):
    task = parse_task([recipe(**{"model_name_or_path": str(trained), **fields})])
    with pytest.raises(RecipeError, match=message):
        base_processor(task)
    assert task.memory_hints() == ["--freeze vision (now none)"]  # frames and sizes would not be obeyed


def test_a_model_without_pictures_is_given_none(recipe, tmp_path):
    main([recipe(modalities=["audio"], num_train_epochs=1, max_train_samples=8)])
    task = parse_task([recipe(model_name_or_path=str(tmp_path / "out"), modalities=["audio", "video"])])
    with pytest.raises(RecipeError, match="was built for audio, without video"):
        base_processor(task)


def test_a_first_stage_that_has_not_run_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task = parse_task([str(ROOT / "training_args" / "ravdess_finetune_vision.json"), "--fp16", "false"])
    with pytest.raises(RecipeError, match=r"outputs/ravdess has no model of this system .* run that first"):
        base_processor(task)
