"""Adapters load whole, or say what is missing."""

import pytest
from models.suite_multimodal_fer import config
from safetensors.torch import load_file, save_file

from hf_fer.adapters import LoraSettings, add_lora, load_adapter_model
from hf_fer.arguments import RecipeError
from hf_fer.models.multimodal_fer import MultimodalFerForEmotionClassification


def test_an_adapter_that_lacks_a_weight(tmp_path):
    MultimodalFerForEmotionClassification(config()).save_pretrained(tmp_path / "base")
    model = MultimodalFerForEmotionClassification.from_pretrained(tmp_path / "base")
    model.freeze(["audio", "vision", "fusion"])
    targets = r"model\.audio_encoder\.layers\.\d+\.self_attn\.q_proj"
    add_lora(model, LoraSettings(rank=2, targets=targets)).save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    load_adapter_model(str(tmp_path / "adapter"))

    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if "lora_A" in name)
    save_file({name: value for name, value in weights.items() if name != lost}, file)
    with pytest.raises(RecipeError, match=f"do not fit .*{lost}"):
        load_adapter_model(str(tmp_path / "adapter"))
