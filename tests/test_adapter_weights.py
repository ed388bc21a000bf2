"""Adapters load whole, on a base that is whole, or say what is missing."""

from pathlib import Path

import pytest
import torch
from models.suite_multimodal_fer import config
from safetensors.torch import load_file, save_file

from hf_fer.adapters import LoraSettings, add_lora, load_adapter_model
from hf_fer.models.multimodal_fer import MultimodalFerForEmotionClassification
from hf_fer.recipe.arguments import RecipeError


@pytest.fixture
def adapter(tmp_path) -> Path:
    """Adapters on the model in `base` beside them, and a classifier of their own."""
    MultimodalFerForEmotionClassification(config()).save_pretrained(tmp_path / "base")
    model = MultimodalFerForEmotionClassification.from_pretrained(tmp_path / "base")
    model.freeze(["audio", "vision", "fusion"])
    targets = r"model\.audio_encoder\.layers\.\d+\.self_attn\.q_proj"
    add_lora(model, LoraSettings(rank=2, targets=targets)).save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change(file: Path, part: str, value: torch.Tensor | None) -> str:
    """Put another value in place of the first weight whose name has `part`, or take it away; returns the name."""
    weights = load_file(file)
    name = next(name for name in weights if part in name)
    kept = {own: tensor for own, tensor in weights.items() if own != name}
    save_file(kept if value is None else {**kept, name: value}, file, metadata={"format": "pt"})
    return name


def test_whole_ones_load(adapter):
    load_adapter_model(str(adapter))


def test_an_adapter_that_lacks_a_weight(adapter):
    lost = change(adapter / "adapter_model.safetensors", "lora_A", None)
    with pytest.raises(RecipeError, match=f"do not fit .*{lost}"):
        load_adapter_model(str(adapter))


def test_an_adapter_that_is_not_finite(adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    shape = next(value.shape for name, value in weights.items() if "lora_A" in name)
    change(adapter / "adapter_model.safetensors", "lora_A", torch.full(shape, torch.nan))
    with pytest.raises(RecipeError, match="not finite"):
        load_adapter_model(str(adapter))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("q_proj", None, "would be random"),
        ("q_proj", torch.zeros(1), "has the shape"),
        ("q_proj.bias", torch.full((32,), torch.nan), "not finite"),
    ],
)
def test_a_base_that_is_not_whole(adapter, part, value, message):
    change(adapter.parent / "base" / "model.safetensors", part, value)
    with pytest.raises(RecipeError, match=rf"adapter: the base model of its adapters .*base.*({message})"):
        load_adapter_model(str(adapter))


def test_a_classifier_that_the_adapters_bring_may_be_missing_in_the_base(adapter):
    expected = load_adapter_model(str(adapter)).state_dict()
    change(adapter.parent / "base" / "model.safetensors", "classifier.", None)
    found = load_adapter_model(str(adapter)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_base_that_is_gone(adapter):
    (adapter.parent / "base" / "config.json").unlink()
    (adapter.parent / "base" / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="the base model of its adapters cannot be loaded"):
        load_adapter_model(str(adapter))


def test_adapters_that_name_no_class(adapter):
    file = adapter / "adapter_config.json"
    file.write_text(file.read_text().replace('"parent_library": "hf_fer', '"parent_library": "other'))
    with pytest.raises(RecipeError, match="model class is of other"):
        load_adapter_model(str(adapter))
