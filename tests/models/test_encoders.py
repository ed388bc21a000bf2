"""An encoder from a run of another system: the recogniser's in the model of sound and pictures, and the other way."""

import json
import logging

import pytest
import torch
from models.speech_to_text.recipes import TINY, task_of
from models.suite_multimodal_fer import config as audiovisual_config
from safetensors.torch import load_file, save_file
from transformers import ParakeetForCTC

from hf_fer.experiment.one_run import run
from hf_fer.models.multimodal_fer import MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.processing_multimodal_fer import MultimodalFerFeatureExtractor
from hf_fer.models.multimodal_fer.train.building import processor_of
from hf_fer.models.speech_to_text.train.demo import make_demo
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import build_task
from hf_fer.weights.encoders import load_encoder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def recogniser(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recogniser") / "out"
    run(task_of(manifest, folder, do_predict=False))
    return folder


@pytest.fixture(scope="module")
def audiovisual(tmp_path_factory):
    """A model of sound and pictures with normalisation by the recording, and one with global constants."""
    folder = tmp_path_factory.mktemp("audiovisual")
    torch.manual_seed(5)
    model = MultimodalFerForEmotionClassification(audiovisual_config())
    for name in ("utterance", "global"):
        model.save_pretrained(folder / name)
        preemphasis = 0.97 if name == "utterance" else None
        MultimodalFerFeatureExtractor(normalize=name, preemphasis=preemphasis).save_pretrained(folder / name)
    return folder


def built(task):
    data = task.load_data()
    processor = task.build_processor(data)
    return data, task.build_model(data, processor)


def test_a_recogniser_starts_from_the_sound_branch(manifest, audiovisual, tmp_path, caplog):
    source = audiovisual / "utterance"
    given = {"encoder_backbone": str(source), "config_overrides": {"encoder_config": {"dropout": 0.0}}}
    with caplog.at_level(logging.INFO):
        task = task_of(manifest, tmp_path, **given, max_train_samples=None)
        data, model = built(task)
    assert type(model) is ParakeetForCTC
    saved = load_file(source / "model.safetensors")
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, saved[f"model.audio_encoder.{name}"])
    assert model.config.encoder_config.dropout == 0.0
    assert model.config.inputs_to_logits_ratio == 160 * model.config.encoder_config.subsampling_factor == 1280
    assert "'model.audio_encoder'" not in caplog.text
    assert "left behind: {" in caplog.text
    assert "'model.vision_encoder': " in caplog.text
    too_long = [entry for entry in data.skipped if "its transcript needs" in entry["reason"]]
    assert len(data.splits["train"]) + len(too_long) == 320  # counted in frames of 80 ms


def test_a_start_from_a_recogniser_s_encoder_trains_with_another_vocabulary(manifest, recogniser, tmp_path):
    task = task_of(manifest, tmp_path / "out", encoder_backbone=str(recogniser), config_overrides=None, units="nfd")
    _, model = built(task)
    saved = load_file(recogniser / "model.safetensors")
    assert torch.equal(model.encoder.layers[0].norm_out.weight, saved["encoder.layers.0.norm_out.weight"])
    assert model.config.encoder_config.hidden_size == TINY["hidden_size"]
    assert model.ctc_head.out_channels != len(saved["ctc_head.bias"])
    run(task)
    trainings = json.loads((tmp_path / "out" / "provenance.json").read_text())["trainings"]
    assert len(trainings) == 2


def test_the_sound_branch_starts_from_a_recogniser(recogniser, tmp_path):
    recipe = {
        "task": "multimodal_fer",
        "dataset": "demo",
        "modalities": ["audio"],
        "model_size": "tiny",
        "audio_backbone": str(recogniser),
        "output_dir": str(tmp_path),
    }
    task = build_task(recipe, "recipe", [])
    assert processor_of(task).feature_extractor.normalize == "utterance"
    model = MultimodalFerForEmotionClassification.from_backbones_pretrained(
        audiovisual_config(), audio=str(recogniser)
    )
    saved = load_file(recogniser / "model.safetensors")
    for name, value in model.model.audio_encoder.state_dict().items():
        assert torch.equal(value, saved[f"encoder.{name}"])


def test_another_normalisation_is_told_and_other_features_are_refused(
    manifest, audiovisual, recogniser, tmp_path, caplog
):
    given = {"encoder_backbone": str(audiovisual / "global"), "config_overrides": None}
    built(task_of(manifest, tmp_path, **given))
    assert "with normalize 'global', and gets 'utterance': do not freeze it" in caplog.text
    for fields, said in (
        (
            {"features": "nemotron"},
            "trained on features of MultimodalFerFeatureExtractor, and would get those of Nemo",
        ),
        ({"sampling_rate": 8000}, "with sampling_rate 16000, and would get 8000"),
        ({"config_overrides": {"encoder_config": {"hidden_size": 8}}}, "hidden_size is set by encoder_backbone"),
    ):
        with pytest.raises(RecipeError, match=said):
            built(task_of(manifest, tmp_path, **{**given, **fields}))
    with pytest.raises(RecipeError, match="leave encoder_backbone out"):
        task_of(manifest, tmp_path, **given, model_name_or_path=str(recogniser))


def test_rates_of_recognisers_are_checked_by_the_other_system_too(manifest, tmp_path):
    run(task_of(manifest, tmp_path / "slow", sampling_rate=8000, features="nemotron", do_predict=False, max_steps=1))
    recipe = {
        "task": "multimodal_fer",
        "dataset": "demo",
        "modalities": ["audio"],
        "audio_backbone": str(tmp_path / "slow"),
    }
    with pytest.raises(RecipeError, match=r"audio_backbone: .* features of NemotronAsrStreamingFeatureExtractor"):
        processor_of(build_task(recipe, "recipe", []))


def test_weights_that_do_not_fit_are_listed(recogniser, tmp_path):
    encoder = ParakeetForCTC.from_pretrained(recogniser).encoder
    whole = load_file(recogniser / "model.safetensors")

    def refused(state, said):
        save_file(state, tmp_path / "model.safetensors")
        with pytest.raises(RecipeError, match=said):
            load_encoder(encoder, "encoder_backbone", str(tmp_path))

    name = "encoder.layers.0.norm_out.weight"
    refused({key: value for key, value in whole.items() if key != name}, "missing: layers.0.norm_out.weight")
    refused({**whole, name: whole[name][:3].clone()}, r"norm_out.weight is \(3,\) in the checkpoint, \(32,\) here")
    refused({**whole, name: whole[name] * float("nan")}, "not finite: layers.0.norm_out.weight")
    refused({**whole, "encoder.layers.1.norm_out.weight": whole[name].clone()}, "left over: layers.1.norm_out.weight")
    refused({name: whole[name]}, "0 encoders with a weight")
