"""Data, models and settings of the pairs of programs that examples.py compares."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from PIL import Image
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2CTCTokenizer,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    set_seed,
)

from hf_fer.data.tables import read_table
from hf_fer.models.language_id.train.scratch import train_tokenizer
from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.train.arguments import MultimodalFerDataArguments
from hf_fer.models.multimodal_fer.train.preprocessing import new_processor

ROOT = Path(__file__).parent.parent
HELD_OUT_SPEAKER = "lucas"
LANGUAGES = "ca cs da de en es et fi fr hr hu id it lt nl pl pt ro sv vi"
SENTENCES = {"train": 200, "validation": 50}
TOKENS = 128
FACES = 4400
HUB_NAME = "benchmark/ctc"


@dataclass
class Pair:
    """
    What the two sides are given.

    Args:
        script: File name of the example.
        metric: Name of the quality in both reports.
        schedule: Fields that both sides get.
        recipe: Fields of the recipe alone.
        arguments: Arguments of the script alone.
        needs: Functions of examples_child.py that the script needs; those of a model count as the user's code.
    """

    script: str
    metric: str
    schedule: dict[str, Any]
    recipe: dict[str, Any]
    arguments: dict[str, Any]
    needs: list[str] = field(default_factory=list)


def write_csv(path: Path, names: tuple[str, ...], rows: list[tuple]) -> str:
    """A table, whose folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return str(path)


def fewer(rows: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """At most so many rows of `train`, and a quarter as many of `validation`."""
    if most is None:
        return rows
    sizes = {"train": most, "validation": most // 4}
    parts = [part.sample(min(len(part), sizes[split]), random_state=0) for split, part in rows.groupby("split")]
    return pd.concat(parts).reset_index(drop=True)


def digits(data: Path, most: int | None) -> pd.DataFrame:
    """Spoken digits: `path`, `name` of a WAV file, `word`, `speaker`, `split`."""
    rows = read_table(data / "fsdd/manifest.csv").rename(columns={"transcript": "word"})
    held_out = rows["speaker"] == HELD_OUT_SPEAKER
    paths = [data / "fsdd" / name for name in rows["file"]]
    rows = rows.assign(path=paths, name=[path.with_suffix(".wav").name for path in paths])
    return fewer(rows.assign(split=np.where(held_out, "validation", "train")), most)


def write_wav(source: Path, target: Path) -> None:
    """A clip as a WAV file."""
    samples, rate = soundfile.read(source, dtype="int16")
    soundfile.write(target, samples, rate)


def emotion_checkpoint(folder: Path, labels: list[str], clips: dict[str, Any], config: dict[str, Any]) -> str:
    """A new multimodal_fer model with its processor, saved."""
    set_seed(0)
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    sizes = {**config, "modalities": clips["modalities"], "dropout": 0.0, "classifier_dropout": 0.0}
    model = MultimodalFerForEmotionClassification(MultimodalFerConfig.from_preset("tiny", **sizes, **named))
    model.save_pretrained(folder)
    new_processor(MultimodalFerDataArguments(**clips)).save_pretrained(folder)
    return str(folder)


def audio(work: Path, data: Path, most: int | None) -> Pair:
    """Words as classes: a table for the recipe, and folders by split and class for the script."""
    rows = digits(data, most)
    table = []
    for row in rows.itertuples():
        file = work / "clips" / row.split / row.word / row.name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_wav(row.path, file)
        table.append((file, row.word, row.speaker, row.split))
    clips = {"modalities": ["audio"]}
    encoder = {"num_hidden_layers": 3, "subsampling_factor": 4, "subsampling_conv_channels": 24}
    model = emotion_checkpoint(work / "model", sorted(set(rows["word"])), clips, {"audio_config": encoder})
    return Pair(
        "run_audio_classification.py",
        "accuracy",
        {"num_train_epochs": 3, "per_device_train_batch_size": 16, "learning_rate": 1e-3},
        {
            "task": "multimodal_fer",
            "dataset": write_csv(work / "clips.csv", ("audio", "label", "group", "split"), table),
            "model_name_or_path": model,
            "cache": "decoded",
            "augment": False,
            **clips,
        },
        {
            "dataset_name": str(work / "clips"),
            "model_name_or_path": model,
            "freeze_feature_encoder": False,
            "remove_unused_columns": False,
            "dataloader_num_workers": 0,
        },
        ["sound_model"],
    )


def ctc(work: Path, data: Path, most: int | None) -> Pair:
    """Words as transcripts: a table for the recipe, and folders by split with metadata for the script."""
    rows = digits(data, most)
    table = []
    for split, part in rows.groupby("split"):
        (work / "clips" / split).mkdir(parents=True)
        for row in part.itertuples():
            file = work / "clips" / split / row.name
            write_wav(row.path, file)
            table.append((file, row.word, row.speaker, split))
        named = list(zip(part["name"], part["word"], strict=True))
        write_csv(work / "clips" / split / "metadata.csv", ("file_name", "text"), named)
    tokens = ["[PAD]", "[UNK]", "|", *sorted(set("".join(rows["word"])))]
    (work / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(work / "vocab.json"), pad_token="[PAD]", unk_token="[UNK]")
    cache = work / "hub" / f"models--{HUB_NAME.replace('/', '--')}"
    model = cache / "snapshots/0"
    model.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("0")
    set_seed(0)
    config = Wav2Vec2BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        conv_depthwise_kernel_size=9,
        layerdrop=0.0,
        apply_spec_augment=False,
        **dict.fromkeys(
            [
                "hidden_dropout",
                "attention_dropout",
                "activation_dropout",
                "final_dropout",
                "conformer_conv_dropout",
                "mask_time_prob",
            ],
            0.0,
        ),
    )
    Wav2Vec2BertForCTC(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    SeamlessM4TFeatureExtractor().save_pretrained(model)
    return Pair(
        "run_speech_recognition_ctc.py",
        "wer",
        {"num_train_epochs": 4, "per_device_train_batch_size": 8, "learning_rate": 3e-3},
        {
            "task": "speech_to_text",
            "dataset": write_csv(work / "clips.csv", ("file_path", "transcript", "speaker", "split"), table),
            "model_name_or_path": str(model),
            "cache": "decoded",
            "augment": False,
        },
        {
            "dataset_name": str(work / "clips"),
            "model_name_or_path": HUB_NAME,
            "tokenizer_name_or_path": HUB_NAME,
            "train_split_name": "train",
            "eval_split_name": "validation",
            "freeze_feature_encoder": False,
            "mask_time_prob": 0.0,
            "ctc_zero_infinity": True,
            "greater_is_better": False,
            "dataloader_num_workers": 0,
        },
    )


def text(work: Path, data: Path, most: int | None) -> Pair:
    """Sentences drawn by a seed: one table for the recipe, one for each split for the script."""
    rows = read_table(data / "langid/sentences.tsv.gz").rename(columns={"lang": "label"})
    picked = []
    for language in LANGUAGES.split():
        sentences = sorted(set(rows["text"][rows["label"] == language]))
        random.Random(f"0 {language}").shuffle(sentences)
        for split, count in SENTENCES.items():
            picked += [(sentence, language, split) for sentence in sentences[:count]]
            del sentences[:count]
    rows = fewer(pd.DataFrame(picked, columns=["text", "label", "split"]), most)
    files = {split: str(work / f"{split}.json") for split in SENTENCES}
    for split, part in rows.groupby("split"):
        part[["text", "label"]].to_json(files[split], orient="records", lines=True, force_ascii=False)
    model, labels = work / "model", sorted(set(rows["label"]))
    tokenizer = train_tokenizer(rows["text"][rows["split"] == "train"], 4000, TOKENS)
    tokenizer.save_pretrained(model)
    set_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=TOKENS + tokenizer.pad_token_id + 1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )
    XLMRobertaForSequenceClassification(config).save_pretrained(model)
    return Pair(
        "run_classification.py",
        "accuracy",
        {"num_train_epochs": 3, "per_device_train_batch_size": 16, "learning_rate": 1e-3},
        {
            "task": "language_id",
            "dataset": write_csv(work / "texts.csv", tuple(rows), list(rows.itertuples(index=False))),
            "model_name_or_path": str(model),
            "max_length": TOKENS,
            "overlap": 16,
        },
        {
            "train_file": files["train"],
            "validation_file": files["validation"],
            "text_column_names": "text",
            "model_name_or_path": str(model),
            "max_seq_length": TOKENS,
            "pad_to_max_length": False,
            "dataloader_num_workers": 0,
        },
    )


def image(work: Path, data: Path, most: int | None) -> Pair:
    """Faces as PNG files, in folders by split and class; a table of them for the recipe."""
    with np.load(data / "fer2013/fer2013.npz") as archive:
        faces, classes = archive["images"], archive["classes"]
        rows = pd.DataFrame({"split": archive["split"], "label": classes[archive["labels"]]})
    rows["face"] = rows.index
    rows, table = fewer(rows, most or FACES), []
    for row in rows.itertuples():
        file = work / "faces" / row.split / row.label / f"{row.face}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces[row.face]).save(file)
        table.append((file, row.label, row.split))
    recipe = json.loads((ROOT / "training_args/fer2013.json").read_text(encoding="utf-8"))
    clips = {name: recipe[name] for name in ("modalities", "num_frames", "image_size", "face_crop")}
    model = emotion_checkpoint(work / "model", sorted(classes.tolist()), clips, recipe["config_overrides"])
    return Pair(
        "run_image_classification.py",
        "accuracy",
        {"num_train_epochs": 2, "per_device_train_batch_size": 64, "learning_rate": 2e-3},
        {
            "task": "multimodal_fer",
            "dataset": write_csv(work / "faces.csv", ("video", "label", "split"), table),
            "model_name_or_path": model,
            "cache": recipe["cache"],
            "augment": False,
            **clips,
        },
        {
            "train_dir": str(work / "faces/train"),
            "validation_dir": str(work / "faces/validation"),
            "model_name_or_path": model,
            "remove_unused_columns": False,
            "dataloader_num_workers": 0,
        },
        ["picture_model", "no_augmentation"],
    )


PAIRS: dict[str, Callable[[Path, Path, int | None], Pair]] = {
    "audio": audio,
    "ctc": ctc,
    "text": text,
    "image": image,
}
