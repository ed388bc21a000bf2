"""Settings and orders that nothing else would miss: each of them reaches the place where it counts."""

import pandas as pd
import pytest
import torch
from models.suite_csr import batch, config

from hf_fer.data import loading
from hf_fer.data.cache import ArrayCache
from hf_fer.models.csr import CsrForImageClassification
from hf_fer.models.csr.losses_csr import concept_loss
from hf_fer.models.multimodal_fer.train import preprocessing
from hf_fer.models.multimodal_fer.train.arguments import MultimodalFerDataArguments
from hf_fer.models.multimodal_fer.train.source import read_source
from hf_fer.task.find import build_task


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


ARRAYS = {
    "num_frames": (5, "video"),
    "image_size": (32, "video"),
    "face_crop": ("none", "video"),
    "yunet_path": ("faces.onnx", "video"),
    "audio_normalization": ("utterance", "audio"),
    "trim_silence_db": (33.0, "audio"),
    "max_seconds": (9.0, "audio"),
    "max_pixels": (5000, "video"),
}
"""Field of preprocessing -> another value than the default, and the media that it changes."""

MEDIA = {"audio": ("audio_samples", "audio_hidden_states"), "video": ("video_frames", "visual_features")}


def test_every_field_of_preprocessing_reaches_processor_caches_check_and_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path)
    face = {"face_crop": "yunet", "yunet_path": str(tmp_path / "default.onnx")}
    for name in ("default.onnx", "faces.onnx"):
        (tmp_path / name).write_text(name)
    assert ARRAYS.keys() == preprocessing.SETTINGS.keys()
    before = preprocessing.new_processor(MultimodalFerDataArguments(**face))
    for field, (value, media) in ARRAYS.items():
        value = str(tmp_path / value) if field == "yunet_path" else value
        after = preprocessing.new_processor(MultimodalFerDataArguments(**{**face, field: value}))
        assert preprocessing.SETTINGS[field](after) == value
        keys = [preprocessing.cache_keys(processor) for processor in (before, after)]
        changed = {kind for kind, key in keys[0].items() if key != keys[1][kind]}
        assert changed & set(MEDIA[media])
        folders = [{kind: ArrayCache(kind, key, "float32").folder for kind, key in found.items()} for found in keys]
        assert {kind for kind, folder in folders[0].items() if folder != folders[1][kind]} == changed
        if field != "audio_normalization":  # comes after decoding, and changes what frozen encoders make of it
            assert preprocessing.check_key(before) != preprocessing.check_key(after)
        assert field in preprocessing.FREE or preprocessing.settled(after)[field] == value


@pytest.mark.parametrize(("setting", "value"), [("sampling_rate", 8000), ("n_fft", 256), ("hop_length", 80)])
def test_settings_of_the_sound_are_in_the_cache_key(setting, value):
    keys = []
    for change in ({}, {setting: value}):
        processor = preprocessing.new_processor(MultimodalFerDataArguments(face_crop="none"))
        for name, changed in change.items():
            assert getattr(processor.feature_extractor, name) != changed
            setattr(processor.feature_extractor, name, changed)
        keys.append(preprocessing.cache_keys(processor))
    assert keys[0]["audio_samples"] != keys[1]["audio_samples"]
    assert keys[0]["video_frames"] == keys[1]["video_frames"]
