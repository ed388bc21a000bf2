"""A small saved model of each system, with random weights, and inputs that it takes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from media import tone, write_clip
from models.csr.test_csr_pipeline import save_model
from models.multimodal_fer.test_multimodal_fer_processing import new_processor
from PIL import Image
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    set_seed,
)

from hf_fer.models.language_id.train.demo_text import demo_texts
from hf_fer.models.language_id.train.scratch import train_tokenizer
from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification
from hf_fer.models.speech_to_text.train.vocabulary import build_tokenizer


@dataclass
class System:
    """A saved model; files that it takes, in order, and one that it cannot read."""

    model: Path
    files: list[Path]
    bad: Path


def multimodal_fer(folder: Path) -> System:
    set_seed(0)
    config = MultimodalFerConfig.from_preset("tiny", num_frames=6)
    MultimodalFerForEmotionClassification(config).save_pretrained(folder / "model")
    new_processor().save_pretrained(folder / "model")
    return System(folder / "model", sounds(folder), bad_file(folder / "bad.wav"))


def csr(folder: Path) -> System:
    save_model(folder / "model")
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.png" for number in range(5)]
    for file in files:
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    return System(folder / "model", files, bad_file(folder / "bad.png"))


def language_id(folder: Path) -> System:
    rows = demo_texts()
    tokenizer = train_tokenizer(rows["text"], vocab_size=400, max_length=32)
    names = sorted(set(rows["label"]))
    set_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=34,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    XLMRobertaForSequenceClassification(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    files = [folder / f"{number}.txt" for number in range(5)]
    for file, text in zip(files, rows["text"], strict=False):
        file.write_text(text, encoding="utf-8")
    bad = folder / "bad.txt"
    bad.write_bytes(b"\xff\xfe\xff")
    return System(folder / "model", files, bad)


def speech_to_text(folder: Path) -> System:
    tokenizer = build_tokenizer(["ab cd"], "nfc", 10)
    set_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "model")
    return System(folder / "model", sounds(folder), bad_file(folder / "bad.wav"))


def sounds(folder: Path) -> list[Path]:
    return [
        write_clip(folder / f"{number}.wav", audio=tone(0.9 - number / 10, 16000, frequency=200 + 80 * number))
        for number in range(5)
    ]


def bad_file(path: Path) -> Path:
    path.write_text("this is no medium")
    return path


@pytest.fixture(scope="session")
def systems(tmp_path_factory) -> dict[str, System]:
    """By name."""
    kinds = (multimodal_fer, csr, language_id, speech_to_text)
    return {kind.__name__: kind(tmp_path_factory.mktemp(kind.__name__)) for kind in kinds}
