"""Pretrained parts, on small checkpoints of the classes that the published ones have."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForVideoClassification, set_seed

from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.vision_multimodal_fer import FrameEncoder

ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "projection_size": 32,
}
LFM2 = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "layer_types": ["conv", "conv", "full_attention", "conv"],
    "block_auto_adjust_ff_dim": False,
}


def save_backbones(folder: Path) -> dict[str, str]:
    """Checkpoints as they are published: with heads, text tower and vocabulary, two of them in bf16."""
    set_seed(3)
    transformers.ParakeetForCTC(
        transformers.ParakeetCTCConfig(vocab_size=10, pad_token_id=9, encoder_config=ENCODER)
    ).save_pretrained(folder / "parakeet")
    siglip = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT)
    transformers.SiglipModel(siglip).to(torch.bfloat16).save_pretrained(folder / "siglip")
    transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**LFM2)).to(torch.bfloat16).save_pretrained(folder / "lfm2")
    return {"audio": str(folder / "parakeet"), "vision": str(folder / "siglip"), "fusion": str(folder / "lfm2")}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, str]:
    return save_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture
def config() -> MultimodalFerConfig:
    return MultimodalFerConfig.from_preset("tiny", num_frames=4, temporal_num_layers=1)


def build(config, backbones, **fields) -> MultimodalFerForEmotionClassification:
    return MultimodalFerForEmotionClassification.from_backbones_pretrained(config, **backbones, **fields)


def test_every_part_has_its_checkpoints_weights(config, backbones):
    model = build(config, backbones, fusion_num_layers=3).model
    parakeet = transformers.ParakeetForCTC.from_pretrained(backbones["audio"]).encoder.state_dict()
    siglip = transformers.SiglipVisionModel.from_pretrained(backbones["vision"], dtype=torch.float32).state_dict()
    lfm2 = transformers.Lfm2Model.from_pretrained(backbones["fusion"], dtype=torch.float32).state_dict()
    for part, original in (("audio", parakeet), ("vision", siglip), ("fusion", lfm2)):
        own = model.parts()[part].state_dict()
        assert own
        assert all(torch.equal(value, original[name]) for name, value in own.items())
    assert len(model.fusion.layers) == 3
    assert model.fusion.embed_tokens is None
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_saved_model_does_not_reach_for_the_originals(config, tmp_path):
    own = save_backbones(tmp_path / "originals")
    model = build(config, own).eval()
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "originals")
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path / "saved").eval()
    assert loaded.config.backbones == own
    inputs = {"input_features": torch.randn(2, 60, 80), "pixel_values": torch.randn(2, 4, 3, 32, 32)}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)
    assert loaded.dtype == torch.float32


def test_other_image_sizes_interpolate_the_positions(config, backbones):
    model = build(config, {"vision": backbones["vision"]}).eval()
    assert model(pixel_values=torch.randn(1, 4, 3, 48, 48)).logits.isfinite().all()


def test_dropouts_are_the_configurations_own(config, backbones):
    config.audio_config.dropout = 0.25
    built = build(config, backbones).config
    assert built.audio_config.dropout == 0.25
    assert built.audio_config.layerdrop == 0.0
    assert built.audio_config.hidden_size == 32


class TestWhatDoesNotFit:
    def test_another_kind(self, config, backbones):
        with pytest.raises(ValueError, match="siglip' checkpoint; the audio encoder needs a 'parakeet_encoder'"):
            build(config, {"audio": backbones["vision"]})

    def test_a_part_that_is_not_there(self, backbones):
        config = MultimodalFerConfig.from_preset("tiny", modalities=["audio"])
        with pytest.raises(ValueError, match="into 'vision'"):
            build(config, {"vision": backbones["vision"]})

    def test_too_many_layers(self, config, backbones):
        with pytest.raises(ValueError, match="1 to 4, got 5"):
            build(config, backbones, fusion_num_layers=5)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda state: state.pop("model.layers.0.conv.in_proj.weight"), "missing: layers.0.conv.in_proj.weight"),
            (
                lambda state: state.update({"model.layers.0.conv.in_proj.weight": torch.zeros(4, 4)}),
                r"shape: layers.0.conv.in_proj.weight is \(4, 4\)",
            ),
            (lambda state: state.update({"model.layers.0.extra": torch.zeros(4)}), "unexpected: .*layers.0.extra"),
        ],
        ids=["missing", "shape", "unexpected"],
    )
    def test_keys_are_listed(self, config, backbones, tmp_path, change, problem):
        shutil.copytree(backbones["fusion"], tmp_path / "lfm2")
        file = tmp_path / "lfm2" / "model.safetensors"
        state = load_file(file)
        change(state)
        save_file(state, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=problem):
            build(config, {"fusion": str(tmp_path / "lfm2")})


def test_the_configuration_reloads(config, backbones, tmp_path):
    build(config, backbones, fusion_num_layers=2).config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["lfm2_config"]["num_hidden_layers"] == 2
    assert saved["lfm2_config"]["vocab_size"] == 1
    assert MultimodalFerConfig.from_pretrained(tmp_path).lfm2_config.layer_types == ["conv", "conv"]


def test_a_model_of_this_system_lends_each_of_its_encoders(config, tmp_path):
    vision = {**VISION, "stem_channels": [8, 8], "stem_blocks": 2}
    lender = MultimodalFerForEmotionClassification(
        MultimodalFerConfig.from_preset("tiny", audio_config=ENCODER, vision_config=vision, num_labels=5)
    )
    lender.save_pretrained(tmp_path)
    model = build(config, dict.fromkeys(("audio", "vision", "fusion"), str(tmp_path)))
    assert model.config.vision_config.stem_channels == [8, 8]
    assert model.config.vision_config.patch_size == 4
    assert model.config.num_labels == 8
    for part, encoder in model.encoders().items():
        lent = lender.encoders()[part].state_dict()
        assert encoder.state_dict().keys() == lent.keys()
        assert all(torch.equal(value, lent[name]) for name, value in encoder.state_dict().items())
    assert not torch.equal(model.model.video_projection.out_proj.weight, lender.model.video_projection.out_proj.weight)


def test_the_vision_encoder_starts_as_transformers_own():
    config = MultimodalFerConfig.from_preset("tiny").vision_config
    set_seed(0)
    ours = FrameEncoder._from_config(config).state_dict()
    set_seed(0)
    theirs = transformers.SiglipVisionModel._from_config(config).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


class TestStem:
    @pytest.fixture
    def config(self) -> MultimodalFerConfig:
        return MultimodalFerConfig.from_preset(
            "tiny", modalities=["video"], num_frames=4, vision_config={"stem_channels": [8, 16, 16], "image_size": 32}
        )

    def test_it_gives_a_grid_of_patches_of_the_encoder_s_width(self, config):
        encoder = MultimodalFerForEmotionClassification(config).eval().model.vision_encoder
        assert encoder(torch.randn(2, 3, 32, 32)).last_hidden_state.shape == (2, 4 * 4, 96)
        larger = encoder(torch.randn(2, 3, 64, 48), interpolate_pos_encoding=True).last_hidden_state
        assert larger.shape == (2, 8 * 6, 96)

    def test_a_saved_model_has_it(self, config, tmp_path):
        model = MultimodalFerForEmotionClassification(config).eval()
        model.save_pretrained(tmp_path)
        loaded = AutoModelForVideoClassification.from_pretrained(tmp_path).eval()
        frames = torch.randn(2, 4, 3, 32, 32)
        assert torch.equal(model(pixel_values=frames).logits, loaded(pixel_values=frames).logits)

    def test_frozen_it_keeps_its_statistics(self, config):
        model = MultimodalFerForEmotionClassification(config)
        model.freeze(["vision"])
        model.train()
        before = {name: value.clone() for name, value in model.model.vision_encoder.state_dict().items()}
        model(pixel_values=torch.randn(2, 4, 3, 32, 32))
        assert all(torch.equal(value, before[name]) for name, value in model.model.vision_encoder.state_dict().items())

    @pytest.mark.parametrize("fields", [{"stem_channels": []}, {"stem_channels": [8, 0]}, {"stem_blocks": -1}])
    def test_impossible_sizes_are_refused(self, fields):
        with pytest.raises(Exception, match=next(iter(fields))):
            MultimodalFerConfig.from_preset("tiny", vision_config=fields)
