"""Settings and orders that nothing else would miss: each of them reaches the place where it counts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from models.suite_csr import batch, config
from PIL import Image
from scipy.io import wavfile
from transformers import ModernBertConfig

from hf_fer.data import loading
from hf_fer.data.cache import ArrayCache
from hf_fer.models.csr import CsrForImageClassification
from hf_fer.models.csr.losses_csr import concept_loss
from hf_fer.models.csr.train import images
from hf_fer.models.csr.train.preprocessing import ImageSettings
from hf_fer.models.language_id.train.preprocessing import WindowSettings
from hf_fer.models.multimodal_fer.train import preprocessing
from hf_fer.models.multimodal_fer.train.arguments import MultimodalFerDataArguments
from hf_fer.models.multimodal_fer.train.source import read_source
from hf_fer.models.speech_to_text.train import preprocessing as speech_preprocessing
from hf_fer.models.speech_to_text.train import recordings
from hf_fer.models.speech_to_text.train.preprocessing import SoundSettings
from hf_fer.recipe.arguments import RecipeError
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


def task_of(system: str, tmp_path, start=None, **fields):
    """A task that starts from a folder with nothing but a processor, as only this test would."""
    recipe = {"task": system, "dataset": "demo", "output_dir": str(tmp_path / "out"), **fields}
    task = build_task(recipe, "recipe", [])
    task.model_args.model_name_or_path = start and str(start)
    return task


IMAGES = {
    "image_size": (32, False),
    "image_mean": ([0.1, 0.2, 0.3], False),
    "image_std": ([0.6, 0.7, 0.8], False),
    "max_pixels": (5000, True),
}
"""Field of csr's preprocessing -> another value than the default, and whether files are checked again under it."""


@pytest.mark.parametrize("field", IMAGES)
def test_every_field_of_csr_reaches_processor_check_and_checkpoint(field, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "home")
    assert IMAGES.keys() == {item.name for item in dataclasses.fields(ImageSettings)}
    seen = counted(monkeypatch, images, "load_image")
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(tmp_path / "image.png")
    value, checked_again = IMAGES[field]
    tasks = [task_of("csr", tmp_path, **given) for given in ({}, {field: value})]
    settings = [ImageSettings.of(task) for task in tasks]
    for each in settings:
        assert images.image_check(each, 1).reasons([(str(tmp_path / "image.png"), "image")]) == [None]
    assert len(seen) == 1 + checked_again
    processors = [task.build_processor(None) for task in tasks]
    assert getattr(ImageSettings.of_processor(processors[1]), field) == value != getattr(settings[0], field)
    processors[1].save_pretrained(tmp_path / "model")
    known = {"start": tmp_path / "model"}
    assert getattr(ImageSettings.of(task_of("csr", tmp_path, **known)), field) == value
    other = {"image_size": 48, "image_mean": [0.2] * 3, "image_std": [0.3] * 3, "max_pixels": 6000}[field]
    another = task_of("csr", tmp_path, **known, **{field: other})
    if field == "max_pixels":
        assert another.build_processor(None).max_pixels == other
    else:
        with pytest.raises(RecipeError, match=f"{field} .* was trained with"):
            another.build_processor(None)


SOUND = {
    "sampling_rate": (8000, True),
    "max_seconds": (9.0, True),
    "features": ("nemotron", False),
    "mel_bins": (40, False),
    "window_ms": (50.0, False),
}
"""Field of speech_to_text's preprocessing -> another value than the default, and whether files are measured again."""


@pytest.mark.parametrize("field", SOUND)
def test_every_field_of_speech_reaches_extractor_check_and_checkpoint(field, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "home")
    assert SOUND.keys() == {item.name for item in dataclasses.fields(SoundSettings)}
    seen = counted(monkeypatch, recordings, "load_audio")
    tone = tone_file(tmp_path)
    value, measured_again = SOUND[field]
    settings = [SoundSettings.of(task_of("speech_to_text", tmp_path, **given)) for given in ({}, {field: value})]
    for each in settings:
        assert recordings.measure([tone], each, 1) == {tone: 1.0}
    assert len(seen) == 1 + measured_again
    extractors = [each.extractor() for each in settings]
    if field != "max_seconds":  # of the files alone
        assert extractors[0].to_dict() != extractors[1].to_dict()
    assert getattr(settings[1], field) == value != getattr(settings[0], field)
    extractors[1].save_pretrained(tmp_path / "model")
    known = {"start": tmp_path / "model"}
    stored = SoundSettings.of(task_of("speech_to_text", tmp_path, **known))
    assert stored.settled == settings[1].settled
    if field in stored.settled:
        other = {"sampling_rate": 11025, "features": "parakeet", "mel_bins": 64, "window_ms": 30.0}[field]
        with pytest.raises(RecipeError, match=f"{field} .* was trained with"):
            SoundSettings.of(task_of("speech_to_text", tmp_path, **known, **{field: other}))


def test_another_decoder_measures_recordings_again(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "home")
    seen = counted(monkeypatch, recordings, "load_audio")
    tone = tone_file(tmp_path)
    for version in (1, 1, 2):
        monkeypatch.setattr(speech_preprocessing, "DECODER_VERSION", version)
        recordings.measure([tone], SoundSettings(), 1)
    assert len(seen) == 2


def tone_file(folder) -> str:
    """A second of a tone at 16 kHz."""
    wavfile.write(folder / "tone.wav", 16000, (20000 * np.sin(np.arange(16000) / 5)).astype(np.int16))
    return str(folder / "tone.wav")


def counted(monkeypatch, module, name: str) -> list[tuple]:
    """The calls of a function of a module, as they come."""
    calls, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: calls.append(given) or function(*given))
    return calls


def test_windows_of_texts_are_the_checkpoint_s_unless_the_recipe_gives_others(tmp_path):
    ModernBertConfig(language_id={"max_length": 40, "overlap": 8}).save_pretrained(tmp_path / "start")
    assert {item.name for item in dataclasses.fields(WindowSettings)} == {"max_length", "overlap"}
    new = WindowSettings.of(task_of("language_id", tmp_path, max_length=64, overlap=16))
    assert (new.max_length, new.overlap) == (64, 16)
    stored = WindowSettings.of(task_of("language_id", tmp_path, tmp_path / "start"))
    assert (stored.max_length, stored.overlap) == (40, 8)
    mixed = WindowSettings.of(task_of("language_id", tmp_path, tmp_path / "start", max_length=200))
    assert (mixed.max_length, mixed.overlap) == (200, 8)
    with pytest.raises(RecipeError, match="got 60 of 40; fields that the recipe leaves out are"):
        WindowSettings.of(task_of("language_id", tmp_path, tmp_path / "start", overlap=60))
