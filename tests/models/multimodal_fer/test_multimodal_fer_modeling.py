"""The parts of the audio-visual model against their definitions."""

import json
import math
import subprocess
import textwrap

import pytest
import torch
import torch.nn.functional as F
import warm
from huggingface_hub.errors import StrictDataclassError
from models.suite_multimodal_fer import batch, config
from transformers import set_seed

from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.layers_multimodal_fer import (
    GatedModalityProjection,
    GatedShortConvolution,
    RoiTokenCompression,
    SegmentAttentionPooling,
    TokenPooling,
    masked_softmax,
)


@pytest.fixture
def model():
    set_seed(0)
    return MultimodalFerForEmotionClassification(config())


def without_labels(inputs):
    return {name: value for name, value in inputs.items() if name != "labels"}


class TestSegmentAttentionPooling:
    def test_segments_cover_the_valid_frames_and_no_others(self):
        pooling = SegmentAttentionPooling(4, 5)
        for length in (1, 3, 5, 12, 17):
            mask = pooling.segment_mask(torch.tensor([length]), 20)[0]
            assert mask.any(dim=1).all()
            assert mask[:, :length].any(dim=0).all()
            assert not mask[:, length:].any()

    def test_bounds_are_those_of_adaptive_average_pooling(self):
        pooling = SegmentAttentionPooling(4, 5)
        values = torch.randn(1, 4, 17)
        mask = pooling.segment_mask(torch.tensor([17]), 17)[0].float()
        mean = values[0] @ mask.T / mask.sum(dim=1)
        torch.testing.assert_close(mean, F.adaptive_avg_pool1d(values, 5)[0])

    def test_each_segment_attends_by_its_own_query(self):
        torch.manual_seed(0)
        pooling = SegmentAttentionPooling(4, 2)
        torch.nn.init.normal_(pooling.query)
        torch.nn.init.zeros_(pooling.segment_embedding)
        states = torch.randn(1, 6, 4)
        expected = []
        for segment, part in enumerate((states[0, :3], states[0, 3:])):
            weights = (pooling.key(part) @ pooling.query[segment] / math.sqrt(4)).softmax(0)
            expected.append(pooling.norm(weights @ part))
        torch.testing.assert_close(pooling(states, torch.tensor([6]))[0], torch.stack(expected))

    def test_no_valid_frame_is_not_nan(self):
        pooling = SegmentAttentionPooling(4, 2)
        for parameter in pooling.parameters():
            torch.nn.init.normal_(parameter)
        assert torch.isfinite(pooling(torch.randn(1, 6, 4), torch.tensor([0]))).all()


class TestRoiTokenCompression:
    @pytest.fixture
    def compression(self):
        torch.manual_seed(0)
        compression = RoiTokenCompression(config())
        for parameter in compression.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return compression

    def test_the_scorer_gets_a_gradient(self, compression):
        tokens, _ = compression(torch.randn(2, 16, 32))
        tokens.square().sum().backward()
        for parameter in compression.scorer.parameters():
            assert parameter.grad.abs().sum() > 0

    def test_the_best_patches_are_kept_in_order_and_scaled(self, compression):
        patches = torch.randn(1, 16, 32)
        tokens, kept = compression(patches)
        normed = compression.norm(patches)
        scores = compression.scorer(normed)[0, :, 0]
        assert kept[0].tolist() == sorted(scores.topk(8).indices.tolist())
        torch.testing.assert_close(tokens[0, :8], normed[0, kept[0]] * scores[kept[0], None].sigmoid())
        assert tokens.shape == (1, 8 + 2, 32)

    def test_patch_0_is_an_ordinary_patch(self, compression):
        """SigLIP has no CLS token: patch 0 must be kept when it scores best."""
        patches = torch.randn(1, 16, 32)
        mask = torch.zeros(1, 16)
        mask[0, 0] = 1e4
        assert compression(patches, mask)[1][0, 0] == 0

    def test_a_region_of_interest_is_added_so_negative_scores_are_lifted_too(self, compression):
        torch.nn.init.constant_(compression.scorer[2].bias, -50.0)
        mask = torch.zeros(1, 16)
        mask[0, 3:11] = 1000.0
        assert compression(torch.randn(1, 16, 32), mask)[1][0].tolist() == list(range(3, 11))

    def test_global_tokens_see_every_patch(self, compression):
        patches = torch.randn(1, 16, 32, requires_grad=True)
        tokens, _ = compression(patches)
        tokens[:, 8:].sum().backward()
        assert (patches.grad.abs().sum(-1) > 0).all()

    def test_more_asked_than_there_are(self, compression):
        assert compression(torch.randn(1, 5, 32))[1].shape == (1, 5)


def test_gated_short_convolution_is_lfm2s_but_centred():
    torch.manual_seed(0)
    block = GatedShortConvolution(4, 3)
    states, mask = torch.randn(1, 7, 4), torch.ones(1, 7, dtype=torch.bool)
    b, c, h = block.in_proj(states).chunk(3, dim=-1)
    padded = F.pad((b * h).transpose(1, 2), (1, 1))
    mixed = F.conv1d(padded, block.conv.weight, groups=4).transpose(1, 2)
    torch.testing.assert_close(block(states, mask), block.out_proj(c * mixed))
    mask[0, 5:] = False
    changed = states.clone()
    changed[0, 5:] += 10
    torch.testing.assert_close(block(states, mask)[0, :5], block(changed, mask)[0, :5])


def test_gated_projection_is_its_formula():
    torch.manual_seed(0)
    projection = GatedModalityProjection(6, 4)
    states = torch.randn(2, 3, 6)
    gate = torch.sigmoid(F.gelu(projection.gate_proj(states)))
    expected = projection.norm(projection.out_proj(gate * F.gelu(projection.value_proj(states))))
    output, mean_gate = projection(states)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(mean_gate, gate.mean(-1))


@pytest.mark.parametrize("kind", ["mean", "max", "last", "attention"])
def test_token_pooling(kind):
    torch.manual_seed(0)
    pooling = TokenPooling(4, kind)
    tokens, mask = torch.randn(2, 6, 4), torch.ones(2, 6, dtype=torch.bool)
    mask[1, 1::2] = False
    present = tokens[1, ::2]
    expected = {
        "mean": lambda: present.mean(0),
        "max": lambda: present.amax(0),
        "last": lambda: tokens[1, -1],
        "attention": lambda: pooling.score(present).softmax(0).T[0] @ present,
    }[kind]()
    torch.testing.assert_close(pooling(tokens, mask)[1], expected)
    assert torch.isfinite(pooling(tokens, torch.zeros_like(mask))).all()


@pytest.mark.parametrize("kind", ["mean", "max", "last", "attention"])
def test_every_pooling_trains(kind):
    settings = config()
    settings.classifier_pooling = kind
    model = MultimodalFerForEmotionClassification(settings)
    model(**batch()).loss.backward()
    assert model.model.fusion.layers[0].feed_forward.w1.weight.grad.abs().sum() > 0


def test_masked_softmax_without_any_true_entry_is_uniform():
    weights = masked_softmax(torch.randn(1, 4), torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(weights, torch.full((1, 4), 0.25))


class TestModalities:
    def test_one_checkpoint_takes_audio_video_or_both(self, model):
        model.eval()
        both = without_labels(batch(2))
        audio = {name: both[name] for name in ("input_features", "attention_mask")}
        video = {name: both[name] for name in ("pixel_values", "frame_mask")}
        logits = [model(**inputs).logits for inputs in (both, audio, video)]
        assert all(item.shape == (2, 8) for item in logits)
        assert not torch.allclose(logits[1], logits[2])

    def test_masked_away_equals_not_given(self, model):
        model.eval()
        inputs = without_labels(batch(2))
        inputs["frame_mask"] = torch.zeros_like(inputs["frame_mask"])
        audio = {name: inputs[name] for name in ("input_features", "attention_mask")}
        torch.testing.assert_close(model(**inputs).logits, model(**audio).logits)

    def test_an_absent_modality_cannot_be_heard(self, model):
        model.eval()
        inputs = without_labels(batch())
        louder = {**inputs, "input_features": inputs["input_features"].clone()}
        louder["input_features"][2] = 100.0
        torch.testing.assert_close(model(**inputs).logits[2], model(**louder).logits[2])

    def test_tokens_are_interleaved(self, model):
        model.eval()
        output = model.model(**without_labels(batch()))
        assert output.token_mask[0].all()
        assert output.token_mask[1].tolist() == [True, False] * 4
        assert output.token_mask[2].tolist() == [False, True] * 4

    def test_modality_dropout_hides_one_and_never_both(self):
        settings = config()
        settings.modality_dropout = 0.5
        model = MultimodalFerForEmotionClassification(settings).train()
        torch.manual_seed(0)
        present = {name: torch.ones(4000, dtype=torch.bool) for name in ("audio", "video")}
        visible = model.model.visible(present)
        assert (visible["audio"] | visible["video"]).all()
        assert 0.2 < (~visible["audio"]).float().mean() < 0.3
        assert 0.2 < (~visible["video"]).float().mean() < 0.3
        assert model.eval().model.visible(present) is present

    def test_single_modality_models_have_no_other_branch(self):
        audio = MultimodalFerForEmotionClassification(MultimodalFerConfig.from_preset("tiny", modalities=["audio"]))
        assert not any("vision" in name or "video" in name for name, _ in audio.named_parameters())
        with pytest.raises(ValueError, match="built for"):
            audio(pixel_values=torch.randn(1, 2, 3, 64, 64))

    def test_nothing_given(self, model):
        with pytest.raises(ValueError, match="at least one"):
            model()

    def test_too_many_frames(self, model):
        with pytest.raises(ValueError, match="at most 6"):
            model(pixel_values=torch.randn(1, 7, 3, 32, 32))

    def test_visual_features_take_the_place_of_pixels(self, model):
        model.eval()
        inputs = without_labels(batch(2))
        pixels = inputs.pop("pixel_values")
        features = model.model.vision_encoder(pixel_values=pixels.flatten(0, 1)).last_hidden_state
        torch.testing.assert_close(
            model(**inputs, pixel_values=pixels).logits,
            model(**inputs, visual_features=features.unflatten(0, (2, 6))).logits,
        )


class TestLoss:
    def test_it_is_the_sum_of_its_parts(self, model):
        model.eval()
        inputs = batch(2)
        output = model(**inputs)

        def smoothed(logits):
            return F.cross_entropy(logits, inputs["labels"], label_smoothing=0.1)

        expected = smoothed(output.logits) + 0.3 * (smoothed(output.audio_logits) + smoothed(output.video_logits))
        hidden = model.model(**without_labels(inputs))
        contrast = model.contrastive_loss(hidden.audio_tokens.mean(1), hidden.video_tokens.mean(1))
        torch.testing.assert_close(output.loss, expected + 0.1 * contrast)

    def test_infonce_is_least_when_pairs_match(self, model):
        audio = torch.eye(4, 32)
        with torch.no_grad():
            for projection in model.contrastive.values():
                projection.weight.copy_(torch.eye(32))
                projection.bias.zero_()
        assert model.contrastive_loss(audio, audio) < 0.01
        assert model.contrastive_loss(audio, audio.roll(1, 0)) > 5

    def test_an_absent_modality_has_no_auxiliary_loss(self, model):
        model.config.contrastive_loss_weight = 0.0
        del model.contrastive
        inputs = batch()
        inputs["frame_mask"][:] = 0
        model(**inputs).loss.backward()
        assert not model.auxiliary["video"].weight.grad.any()

    def test_ignored_labels_do_not_count(self, model):
        model.eval()
        del model.contrastive
        inputs = batch(2)
        alone = model(**{name: value[:1] for name, value in inputs.items()}).loss
        inputs["labels"][1] = -100
        torch.testing.assert_close(model(**inputs).loss, alone)
        inputs["labels"][:] = -100
        assert model(**inputs).loss == 0

    def test_class_weights_scale_their_class(self, model):
        model.config.label_smoothing = 0.0
        logits, labels = torch.randn(2, 8), torch.tensor([0, 1])
        plain = model.classification_loss(logits[:1], labels[:1])
        model.config.class_weights = [3.0] + [1.0] * 7
        torch.testing.assert_close(model.classification_loss(logits[:1], labels[:1]), 3 * plain)


class TestFreezing:
    def test_frozen_parts_neither_train_nor_move_their_statistics(self, model):
        model.freeze(["audio", "vision"])
        model.train()
        before = {name: value.clone() for name, value in model.model.audio_encoder.state_dict().items()}
        model(**batch()).loss.backward()
        assert all(value.grad is None for value in model.model.audio_encoder.parameters())
        for name, value in model.model.audio_encoder.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
        assert model.model.fusion.layers[0].feed_forward.w1.weight.grad is not None

    def test_unknown_part(self, model):
        with pytest.raises(ValueError, match="visoin"):
            model.freeze(["visoin"])


class TestConfig:
    def test_preset_sizes(self):
        def millions(size, part=None):
            with torch.device("meta"):
                model = MultimodalFerForEmotionClassification(MultimodalFerConfig.from_preset(size))
            chosen = model.model.parts()[part] if part else model
            return sum(value.numel() for value in chosen.parameters()) / 1e6

        assert millions("tiny") < 3
        assert millions("light", "audio") == pytest.approx(50, rel=0.1)
        assert millions("light", "vision") == pytest.approx(90, rel=0.1)
        assert millions("light", "fusion") == pytest.approx(18, rel=0.1)
        assert millions("full") > millions("light")

    @pytest.mark.parametrize(
        "fields",
        [
            {"num_segments": "8"},
            {"num_segments": 0},
            {"modalities": ["smell"]},
            {"modalities": []},
            {"classifier_pooling": "median"},
            {"class_weights": [1.0]},
            {"label_smoothing": 1.0},
            {"contrastive_temperature": 0.0},
            {"temporal_num_heads": 7},
        ],
    )
    def test_impossible_values_are_refused(self, fields):
        with pytest.raises(StrictDataclassError):
            MultimodalFerConfig.from_preset("tiny", **fields)

    def test_unknown_size(self):
        with pytest.raises(ValueError, match="tiny"):
            MultimodalFerConfig.from_preset("huge")

    def test_number_of_labels(self):
        assert MultimodalFerConfig().id2label[4] == "angry"
        assert MultimodalFerConfig(num_labels=3).num_labels == 3
        assert MultimodalFerConfig(id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}).num_labels == 2


def test_a_new_encoder_does_not_keep_the_closed_subsampling_of_its_library(model):
    """Parakeet's normal(0, 0.02) would leave these at a tenth of this spread."""
    first = model.model.audio_encoder.subsampling.layers[0]
    assert first.weight.std() > 0.1


def test_the_checkpoint_loads_where_hf_fer_is_not_installed(model, tmp_path):
    model.eval()
    model.save_pretrained(tmp_path / "model")
    inputs = without_labels(batch(2))
    torch.save(inputs, tmp_path / "inputs.pt")
    torch.save(model(**inputs).logits, tmp_path / "logits.pt")
    script = f"""
        import sys
        sys.modules["hf_fer"] = None
        import torch
        from transformers import AutoModelForVideoClassification
        model = AutoModelForVideoClassification.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True)
        logits = model.eval()(**torch.load({str(tmp_path / "inputs.pt")!r})).logits
        print((logits - torch.load({str(tmp_path / "logits.pt")!r})).abs().max().item())
    """
    done = subprocess.run(
        [warm.python("hugging_face"), "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 1e-6
    assert "auto_map" in json.loads((tmp_path / "model" / "config.json").read_text())


@pytest.mark.parametrize("widths", [[], [16], [16, 8, 4]])
def test_the_classifier_has_hidden_layers_of_these_widths(widths, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32}
    config = MultimodalFerConfig.from_preset("tiny", modalities=["audio"], lfm2_config=sizes)
    config.classifier_hidden_size = widths
    model = MultimodalFerForEmotionClassification(config)
    linear = [layer for layer in model.classifier if isinstance(layer, torch.nn.Linear)]
    assert [layer.in_features for layer in linear] == [32, *widths]
    model.save_pretrained(tmp_path)
    again = MultimodalFerForEmotionClassification.from_pretrained(tmp_path)
    assert again.config.classifier_hidden_size == widths
    assert again.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["temperature", "contrastive_loss_weight"])
def test_settings_that_are_no_number_are_refused(name):
    with pytest.raises(StrictDataclassError, match=f"{name} must .*, got nan"):
        MultimodalFerConfig.from_preset("tiny", **{name: float("nan")})


def test_a_width_below_1_is_refused():
    with pytest.raises(StrictDataclassError, match="classifier_hidden_size must be at least 1"):
        MultimodalFerConfig.from_preset("tiny", classifier_hidden_size=[16, 0])
