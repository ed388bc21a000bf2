"""CSR's backbones, stages, pruning, steering, interventions and pretrained weights."""

import argparse

import pytest
import timm
import torch
from huggingface_hub.errors import StrictDataclassError
from models.suite_csr import BACKBONES, batch, config
from torch import nn
from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from hf_fer.models.csr import CsrConfig, CsrForImageClassification
from hf_fer.models.csr.backbone_csr import build_backbone, feature_map, feature_size
from hf_fer.models.csr.modeling_csr import TRAINED, BackboneKeysError, peaks, spatial_weights


def build(backbone: str = "medmae", stage: int = 3, seed: int = 0, **fields) -> CsrForImageClassification:
    torch.manual_seed(seed)
    return CsrForImageClassification(config(backbone, stage, **fields)).eval()


every_backbone = pytest.mark.parametrize("backbone", sorted(BACKBONES))


class TestBackbones:
    @every_backbone
    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_each_stage_trains_its_parts_alone(self, backbone, stage):
        model = build(backbone, stage).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
        model(**batch()).loss.backward()
        optimizer.step()
        changed = {name.split(".")[0] for name, value in model.state_dict().items() if (value != before[name]).any()}
        assert changed == set(TRAINED[stage])

    @every_backbone
    def test_the_stage_says_what_trains_after_loading_too(self, backbone, tmp_path):
        def trained(model: CsrForImageClassification) -> set[str]:
            return {name for name, value in model.named_parameters() if value.requires_grad}

        stages = {stage: trained(build(backbone, stage)) for stage in (1, 2, 3)}
        model = build(backbone, 1)
        for stage in (2, 3, 1):
            model.config.stage = stage
            model.freeze_for_stage()
            assert trained(model) == stages[stage]
        model.save_pretrained(tmp_path)
        assert trained(CsrForImageClassification.from_pretrained(tmp_path)) == stages[1]

    @every_backbone
    def test_saved_and_loaded(self, backbone, tmp_path):
        model = build(backbone)
        model.save_pretrained(tmp_path)
        loaded = CsrForImageClassification.from_pretrained(tmp_path).eval()
        inputs = batch()["pixel_values"]
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        with torch.no_grad():  # a convolution may round otherwise where its weights lie at another address
            torch.testing.assert_close(loaded(inputs).logits, model(inputs).logits, rtol=1e-5, atol=1e-6)

    @every_backbone
    def test_a_feature_sees_its_own_place(self, backbone):
        """Changing the lower right corner changes the feature there most."""
        model = build(backbone)
        image = batch(1)["pixel_values"]
        changed = image.clone()
        changed[..., 24:, 24:] += 3
        with torch.no_grad():
            difference = feature_map(model.backbone, changed) - feature_map(model.backbone, image)
        row, column = divmod(int(difference.norm(dim=1)[0].argmax()), difference.shape[-1])
        assert (row, column) == (difference.shape[-2] - 1, difference.shape[-1] - 1)

    def test_defaults_are_the_published_sizes(self):
        fresh = CsrConfig()
        assert (fresh.num_concepts, fresh.num_labels, fresh.num_prototypes) == (14, 6, 5)
        assert feature_size(build_backbone(fresh.backbone_config)) == 2048
        assert (fresh.similarity_scale, fresh.assignment_scale, fresh.margin) == (20, 1000, 0.1)
        assert fresh.prototype_loss == "paper"
        assert CsrConfig(backbone="medmae").backbone_config.mask_ratio == 0


class TestConfig:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"pruned_prototypes": [["nothing", 0]]}, "pruned_prototypes"),
            ({"pruned_prototypes": [["concept_0", 3]]}, "index from 0 to 2"),
            ({"concepts": ["a", "a"]}, "different names"),
            ({"pos_weight": [1.0, 0.0, 1.0, 1.0]}, "one positive number"),
            ({"margin": -0.1}, "margin_sign"),
            ({"margin": float("nan")}, "margin_sign"),
            ({"similarity_scale": float("nan")}, "must be positive, got nan"),
            ({"num_prototypes": 0}, "at least 1"),
            ({"background_threshold": 1.0}, "between 0 and 1"),
        ],
    )
    def test_impossible_values(self, fields, message):
        with pytest.raises(StrictDataclassError, match=message):
            config(**fields)

    def test_backbone_of_another_type(self):
        with pytest.raises(StrictDataclassError, match="needs a backbone_config of type 'resnet'"):
            CsrConfig(backbone="resnet50", backbone_config=ViTConfig())


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class TestPretrainedBackbones:
    """ViT-MAE in timm's layout, which MAE's own checkpoints and MedMAE's have, and in transformers'."""

    def timm_model(self) -> nn.Module:
        torch.manual_seed(1)
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
        ).eval()

    def config(self, backbone: str = "medmae") -> CsrConfig:
        sized = {"image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6}
        return CsrConfig(backbone=backbone, stage=1, backbone_config={**SMALL, **sized}, num_concepts=4)

    @pytest.mark.parametrize("backbone", ["medmae", "vit"])
    def test_timm_weights_give_timm_features(self, backbone, tmp_path):
        source = self.timm_model()
        torch.save({"model": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "mae.pth")
        model = CsrForImageClassification.from_backbone_pretrained(tmp_path / "mae.pth", self.config(backbone)).eval()
        image = batch(2)["pixel_values"]
        with torch.no_grad():
            expected = source.forward_features(image)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
            torch.testing.assert_close(feature_map(model.backbone, image), expected, rtol=1e-4, atol=1e-5)

    def test_both_layouts_of_the_same_weights_give_identical_features(self, tmp_path):
        source = self.timm_model()
        torch.save(source.state_dict(), tmp_path / "timm.pth")
        config = self.config()
        from_timm = CsrForImageClassification.from_backbone_pretrained(tmp_path / "timm.pth", config).eval()
        whole = ViTMAEForPreTraining(
            ViTMAEConfig(
                **{**config.backbone_config.to_dict(), "decoder_num_hidden_layers": 1, "decoder_hidden_size": 16}
            )
        )
        whole.vit.load_state_dict(from_timm.backbone.state_dict())
        whole.save_pretrained(tmp_path / "transformers")
        again = CsrForImageClassification.from_backbone_pretrained(tmp_path / "transformers", config).eval()
        image = batch(2)["pixel_values"]
        with torch.no_grad():
            features = [feature_map(model.backbone, image) for model in (from_timm, again)]
        torch.testing.assert_close(*features, rtol=0, atol=0)

    @pytest.mark.parametrize("backbone", [name for name in sorted(BACKBONES) if not name.startswith("timm/")])
    def test_a_saved_backbone_comes_back(self, backbone, tmp_path):
        source = build(backbone, seed=3)
        source.backbone.save_pretrained(tmp_path)
        model = CsrForImageClassification.from_backbone_pretrained(tmp_path, config(backbone)).eval()
        image = batch(2)["pixel_values"]
        with torch.no_grad():
            features = [feature_map(each.backbone, image) for each in (source, model)]
        torch.testing.assert_close(*features, rtol=0, atol=0)

    def test_keys_that_do_not_match_are_listed(self, tmp_path):
        state = self.timm_model().state_dict()
        del state["blocks.1.mlp.fc1.weight"]
        state["blocks.2.norm1.weight"] = torch.ones(16)
        state["patch_embed.proj.bias"] = torch.ones(7)
        torch.save(state, tmp_path / "bad.pth")
        with pytest.raises(BackboneKeysError) as error:
            CsrForImageClassification.from_backbone_pretrained(tmp_path / "bad.pth", self.config())
        message = str(error.value)
        for kind, name in (("missing", "1.mlp.fc1"), ("left over", "2."), ("another shape", "projection.bias (7,)")):
            assert kind in message
            assert name in message

    def test_another_architecture_is_refused(self, tmp_path):
        ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=8)).save_pretrained(tmp_path)
        with pytest.raises(BackboneKeysError, match="missing"):
            CsrForImageClassification.from_backbone_pretrained(tmp_path, config("resnet50"))

    def test_the_command_line_that_mae_saves_beside_its_weights(self, tmp_path):
        state = {"model": self.timm_model().state_dict(), "args": argparse.Namespace(batch_size=64), "epoch": 3}
        torch.save(state, tmp_path / "mae.pth")
        CsrForImageClassification.from_backbone_pretrained(tmp_path / "mae.pth", self.config())

    @pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
    def test_a_file_of_another_kind(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(BackboneKeysError, match=f"{name}: cannot be read as weights"):
            CsrForImageClassification.from_backbone_pretrained(tmp_path / name, self.config())

    def test_no_such_file(self, tmp_path):
        with pytest.raises(BackboneKeysError, match="no such file"):
            CsrForImageClassification.from_backbone_pretrained(tmp_path / "no.pth", config())


class TestReasoning:
    def test_shares_sum_to_the_logit(self):
        model = build(pruned_prototypes=[["concept_1", 0], ["concept_2", 2]])
        with torch.no_grad():
            output = model(batch()["pixel_values"])
            shares = model.contributions(output.similarities)
        assert shares.shape == (4, 3, 4, 3)
        assert not shares[:, :, 1, 0].any()
        total = shares.sum(dim=(2, 3)) + model.classifier.bias
        torch.testing.assert_close(total, output.logits, rtol=1e-5, atol=1e-6)

    def test_similarity_is_the_highest_cosine(self):
        model = build()
        with torch.no_grad():
            output = model(batch()["pixel_values"])
            places = model.projector(feature_map(model.backbone, batch()["pixel_values"]).flatten(2).transpose(1, 2))
            cosines = nn.functional.cosine_similarity(places, model.prototypes[2, 1], dim=-1)
        torch.testing.assert_close(output.similarities[:, 2, 1], cosines.amax(dim=1), rtol=1e-5, atol=1e-6)
        place = cosines.argmax(dim=1)
        expected = torch.stack([(place % 4 + 0.5) / 4, (place // 4 + 0.5) / 4], dim=-1)
        torch.testing.assert_close(output.similarity_peaks[:, 2, 1], expected)

    def test_a_pruned_prototype_has_no_say(self):
        whole, pruned = build(), build(pruned_prototypes=[["concept_0", 1]])
        with torch.no_grad():
            whole.classifier.weight.unflatten(1, (4, 3))[:, 0, 1] = 0
            image = batch()["pixel_values"]
            torch.testing.assert_close(whole(image).logits, pruned(image).logits)

    def test_steering(self):
        """S^ = A * S, then the maximum: only a positive box, with nothing else, leaves its own cells."""
        model = build()
        image = batch(1)["pixel_values"]
        weights = spatial_weights([(0.0, 0.0, 0.5, 0.5)], [], (4, 4), alpha=0.0)
        assert weights[:2, :2].eq(1).all()
        assert weights.sum() == 4
        with torch.no_grad():
            plain, steered = model(image), model(image, spatial_weights=weights[None])
        inside = plain.similarity_maps[..., :2, :2].flatten(-2).amax(-1)
        torch.testing.assert_close(steered.similarities, inside.clamp(min=0))

    def test_negative_boxes_win_and_alpha_is_elsewhere(self):
        weights = spatial_weights([(0, 0, 1, 0.5)], [(0, 0, 0.5, 1)], (2, 2), alpha=0.25)
        assert weights.tolist() == [[0, 1], [0, 0.25]]

    def test_a_box_smaller_than_a_cell_takes_that_cell(self):
        assert spatial_weights([], [(0.6, 0.1, 0.61, 0.11)], (2, 2), 1.0).tolist() == [[1, 0], [1, 1]]

    @pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.01)])
    def test_boxes_outside_the_image(self, box):
        with pytest.raises(ValueError, match="does not lie in the image"):
            spatial_weights([box], [], (4, 4), 1.0)

    def test_peaks(self):
        maps = torch.zeros(1, 2, 4)
        maps[0, 1, 2] = 1
        assert peaks(maps).tolist() == [[0.625, 0.75]]


class TestIntervention:
    means = {"all": [[0.1] * 3] * 4, "present": [[0.9] * 3] * 4, "absent": [[-0.2] * 3] * 4}
    reject = torch.tensor([[True, False, False, False]])
    confirm = torch.tensor([[False, False, True, False]])

    @pytest.mark.parametrize(("replacement", "value"), [("zero", 0.0), ("mean", 0.1), ("absent", -0.2)])
    def test_rejected_and_confirmed(self, replacement, value):
        model = build(similarity_means=self.means)
        given = torch.full((1, 4, 3), 0.5)
        changed = model.intervene(given, self.reject, self.confirm, replacement)
        torch.testing.assert_close(changed[0, :, 0], torch.tensor([value, 0.5, 0.9, 0.5]))

    def test_unknown_replacement(self):
        with pytest.raises(ValueError, match="replacement must be one of"):
            build().intervene(torch.zeros(1, 4, 3), self.reject, replacement="median")

    def test_means_that_are_not_there(self):
        with pytest.raises(ValueError, match="no training means"):
            build().intervene(torch.zeros(1, 4, 3), self.reject, replacement="mean")
