"""A model folder that is not whole is refused with one message, in every system; none is scored with random parts."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from models import suite_csr, suite_multimodal_fer
from safetensors.torch import load_file, save_file
from transformers import ModernBertConfig, ModernBertForSequenceClassification

from hf_fer.models.csr import CsrForImageClassification
from hf_fer.models.multimodal_fer import MultimodalFerForEmotionClassification
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.base import task_names
from hf_fer.weights.starting_points import INDEX_NAME, check_folder, load_model

CLASSES = {
    "csr": CsrForImageClassification,
    "language_id": ModernBertForSequenceClassification,
    "multimodal_fer": MultimodalFerForEmotionClassification,
}


def text_config() -> ModernBertConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ModernBertConfig(vocab_size=50, **sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)


CONFIGS = {"csr": suite_csr.config, "language_id": text_config, "multimodal_fer": suite_multimodal_fer.config}


@pytest.fixture(params=sorted(CLASSES))
def system(request) -> str:
    return request.param


@pytest.fixture
def folder(system, tmp_path) -> Path:
    CLASSES[system](CONFIGS[system]()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def start(system: str, folder: Path) -> torch.nn.Module:
    own = None if system == "language_id" else system
    check_folder(str(folder), own, task_names())
    return load_model(CLASSES[system], str(folder))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def rename_classes(folder: Path, rename) -> None:
    names = json.loads((folder / "config.json").read_text()).get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    change_config(folder, id2label=dict(rename(number, name) for number, name in names.items()), label2id=None)


HARM = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
    "wrong type": (lambda folder: change_config(folder, id2label=3), "can be loaded"),
    "two classes of one name": (
        lambda folder: rename_classes(folder, lambda number, name: (number, "same")),
        "id2label has 'same' twice",
    ),
    "classes from 1": (
        lambda folder: rename_classes(folder, lambda number, name: (str(int(number) + 1), name)),
        "id2label numbers its classes",
    ),
    "an index of nothing": (lambda folder: (folder / INDEX_NAME).write_text('{"weight_map": 3}'), "names no files"),
    "an index of numbers": (
        lambda folder: (folder / INDEX_NAME).write_text('{"weight_map": {"a": 1}}'),
        "names no files",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "truncated": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
        "no complete safetensors file",
    ),
    "corrupt": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 999),
        "no complete safetensors file",
    ),
    "pickle": (
        lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1})),
        "no complete safetensors file",
    ),
    "no classifier": (
        lambda folder: change_weights(
            folder, lambda weights: [weights.pop(name) for name in [*weights] if name.startswith("classifier")]
        ),
        "would be random",
    ),
    "NaN": (
        lambda folder: change_weights(
            folder,
            lambda weights: next(value for value in weights.values() if value.is_floating_point()).fill_(torch.nan),
        ),
        "finite",
    ),
    "other shape": (
        lambda folder: change_weights(
            folder,
            lambda weights: weights.update(
                {name: value[:1].clone() for name, value in weights.items() if name.startswith("classifier")}
            ),
        ),
        "has the shape",
    ),
}


def test_a_whole_one_is_loaded(system, folder):
    assert isinstance(start(system, folder), CLASSES[system])


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_named(system, folder, harm):
    do, message = HARM[harm]
    do(folder)
    with pytest.raises(RecipeError, match=message):
        start(system, folder)


def test_a_configuration_that_only_the_layers_refuse(tmp_path):
    CLASSES["language_id"](text_config()).save_pretrained(tmp_path)
    change_config(tmp_path, pad_token_id=5000)  # an AssertionError of nn.Embedding
    with pytest.raises(RecipeError, match="Padding_idx must be within"):
        start("language_id", tmp_path)


def test_another_systems_model(system, folder):
    found = "modernbert" if system == "language_id" else system
    for other in {*task_names()} - {system}:
        own = None if other == "language_id" else other
        with pytest.raises(RecipeError, match=found):
            check_folder(str(folder), own, task_names())


def test_what_is_drawn_anew_is_said_by_name(system, folder):
    HARM["no classifier"][0](folder)
    load_model(CLASSES[system], str(folder), anew=lambda name: name.startswith("classifier"))
