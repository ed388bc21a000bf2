"""The export of a small FastConformer: sound of any length, whole and in chunks."""

import numpy as np
import pytest
import torch
from models.speech_to_text.tone_recogniser import TINY
from transformers import set_seed

import hf_fer
from hf_fer.inference.export.job import Settings, export_model
from hf_fer.inference.loading import find_model, load_predictor
from hf_fer.models.speech_to_text.alignment_speech_to_text import frame_lengths
from hf_fer.models.speech_to_text.train.export import RecordingExporter
from hf_fer.models.speech_to_text.train.model import new_extractor, new_model, preset_config
from hf_fer.models.speech_to_text.train.vocabulary import build_tokenizer

RATE = 16000


@pytest.fixture(scope="module")
def parakeet(tmp_path_factory):
    """A small FastConformer and its export for onnxruntime, which is traced with eager attention."""
    folder = tmp_path_factory.mktemp("parakeet")
    tokenizer = build_tokenizer(["ab cd"], "nfc", 10)
    set_seed(0)
    model = new_model(preset_config("weak", len(tokenizer), tokenizer.pad_token_id, 160, {"encoder_config": TINY}))
    for part in (model, tokenizer, new_extractor(RATE, "parakeet")):
        part.save_pretrained(folder / "model")
    report = export_model(Settings(str(folder / "model"), str(folder / "export"), "onnx"))
    return folder, report


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


def test_speech_is_recognised_as_by_the_model_whole_and_in_chunks(parakeet):
    folder, report = parakeet
    assert report.difference < 1e-5
    assert "6 inputs of noise" in report.examples
    sounds = [{"array": noise(seconds), "sampling_rate": RATE} for seconds in (0.4, 3.0)]
    for options in ({}, {"chunk_seconds": 1.0}):
        known, got = (list(hf_fer.predict(folder / name, sounds, options=options)) for name in ("model", "export"))
        assert any(row["text"] for row in known)
        for one, two in zip(known, got, strict=True):
            assert two["text"] == one["text"]
            assert two["score"] == pytest.approx(one["score"], abs=1e-4)


def test_frames_of_padding_do_not_count(parakeet):
    folder, _ = parakeet
    model = load_predictor(find_model(str(folder / "model"))).pipe.model
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 20:] = 0
    logits = model(input_features=torch.randn(2, 40, 80), attention_mask=mask).logits
    found = RecordingExporter.compared(model, {"attention_mask": mask}, {"logits": logits})["logits"]
    valid = frame_lengths(model, mask).tolist()
    assert valid[1] < valid[0] == logits.shape[1]
    assert torch.equal(found[0], logits[0])
    assert torch.equal(found[1, : valid[1]], logits[1, : valid[1]])
    assert not found[1, valid[1] :].any()
