"""Settings and orders that nothing else would miss: each of them reaches the place where it counts."""

import pandas as pd
import pytest
import torch
from models.suite_csr import batch, config

from hf_fer.data import loading
from hf_fer.models.csr import CsrForImageClassification
from hf_fer.models.csr.losses_csr import concept_loss
from hf_fer.models.multimodal_fer.train import cache as task_cache
from hf_fer.models.multimodal_fer.train.building import processor_of
from hf_fer.models.multimodal_fer.train.source import read_source
from hf_fer.task.find import build_task, parse_task


def test_pos_weight_reaches_the_concept_loss_of_the_model():
    weight = [5.0, 0.5, 3.0, 7.0]
    torch.manual_seed(0)
    model = CsrForImageClassification(config("resnet50", 1, pos_weight=weight)).eval()
    inputs = batch()
    with torch.no_grad():
        found = model(**inputs)
    targets = inputs["concept_labels"]
    assert found.loss == pytest.approx(concept_loss(found.concept_logits, targets, torch.tensor(weight)).item())
    assert found.loss != pytest.approx(concept_loss(found.concept_logits, targets).item())


def test_a_random_split_is_of_its_seed():
    rows = pd.DataFrame({"label": list("ab") * 50})
    splits = [loading.random_split(rows, label="label", seed=seed) for seed in (0, 0, 1)]
    assert splits[0].equals(splits[1])
    assert not splits[0].equals(splits[2])


def test_a_manifest_s_classes_are_in_alphabetical_order(tmp_path):
    """Class indices are what a stored model means by its outputs, and predictions of old reports by their columns."""
    labels = ["sad", "angry", "happy"] * 8
    rows = pd.DataFrame({"audio": [f"{number}.wav" for number in range(24)], "label": labels})
    rows.to_csv(tmp_path / "clips.csv", index=False)
    recipe = {
        "task": "multimodal_fer",
        "dataset": str(tmp_path / "clips.csv"),
        "protocol": "manifest",
        "modalities": ["audio"],
    }
    task = build_task({**recipe, "output_dir": str(tmp_path / "out")}, "recipe", [])
    assert read_source(task).labels == ["angry", "happy", "sad"]


@pytest.mark.parametrize(
    ("setting", "value"), [("sampling_rate", 8000), ("trim_db", 33.0), ("n_fft", 256), ("hop_length", 80)]
)
def test_settings_of_the_sound_are_in_the_cache_key(tmp_path, monkeypatch, setting, value):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path)
    task = parse_task(["--task", "multimodal_fer", "--dataset", "demo", "--output_dir", str(tmp_path / "out")])
    folders = []
    for change in (False, True):
        processor = processor_of(task)
        if change:
            assert getattr(processor.feature_extractor, setting) != value
            setattr(processor.feature_extractor, setting, value)
        clips = task_cache.DecodedClips(processor, workers=1, main_process=True, disable_tqdm=True)
        folders.append({modality: cache.folder for modality, cache in clips.caches.items()})
    assert folders[0]["audio"] != folders[1]["audio"]
    assert folders[0]["video"] == folders[1]["video"]
