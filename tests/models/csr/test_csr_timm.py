"""Backbones that timm builds: their feature maps, weights in timm's layout, and what a recipe may name."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from hf_fer.models.csr import CsrConfig, CsrForImageClassification
from hf_fer.models.csr.backbone_csr import BackboneKeysError, feature_map
from hf_fer.models.csr.train.backbones import timm_statistics
from hf_fer.models.csr.train.preprocessing import channel_statistics
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import parse_task

RECIPE = "training_args/demo/csr_1_concepts.json"


def config(backbone: str, side: int = 64) -> CsrConfig:
    sizes = {"num_concepts": 4, "num_prototypes": 3, "prototype_size": 8, "num_labels": 3}
    return CsrConfig(backbone=backbone, backbone_config={"image_size": side}, **sizes)


def image(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "grid", "weight"),
    [
        ("test_resnet", 2, "layer1.0.conv1.weight"),
        ("test_convnext", 2, "stages.0.blocks.0.conv_dw.weight"),
        ("test_vit", 4, "blocks.0.attn.qkv.weight"),
    ],
)
def test_weights_in_timm_s_layout_give_timm_s_features(name, grid, weight, tmp_path):
    """A classifier of any number of classes is left aside, and position embeddings fit the image size."""
    torch.manual_seed(1)
    side = 64
    source = timm.create_model(name, num_classes=7).eval()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    settings = config(f"timm/{name}", side)
    model = CsrForImageClassification.from_backbone_pretrained(tmp_path, settings).eval()
    sized = {"img_size": side} if name == "test_vit" else {}
    reference = timm.create_model(
        name,
        features_only=True,
        out_indices=[-1],
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors")},
        **sized,
    ).eval()
    with torch.no_grad():
        found = feature_map(model.backbone, image(side))
        torch.testing.assert_close(found, reference(image(side))[-1], rtol=0, atol=0)
    assert found.shape[-2:] == (grid, grid)
    loaded = dict(model.backbone.named_parameters())
    given = source.get_parameter(weight)
    assert any(value.shape == given.shape and torch.equal(value, given) for value in loaded.values())


def test_channels_last_features_are_turned():
    """Swin's blocks have them last."""
    model = CsrForImageClassification(config("timm/swin_tiny_patch4_window7_224"))
    assert feature_map(model.backbone, image(64)).shape == (2, 768, 2, 2)


@pytest.mark.parametrize("change", ["missing", "left over", "of another shape"])
def test_keys_that_timm_would_pass_over_are_listed(change, tmp_path):
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    if change == "missing":
        del state["layer1.0.conv1.weight"]
    elif change == "left over":
        state["layer9.0.conv1.weight"] = torch.ones(1)
    else:
        state["layer1.0.conv1.weight"] = torch.ones(1, 2)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(BackboneKeysError, match=rf"(?s){change}: layer\d\.0\.conv1\.weight"):
        CsrForImageClassification.from_backbone_pretrained(
            tmp_path / "weights.safetensors", config("timm/test_resnet")
        )


def test_a_mistyped_name_has_the_nearest():
    with pytest.raises(RecipeError, match="timm has no model 'timm/resnet1'; did you mean 'timm/resnet"):
        parse_task([RECIPE, "--backbone", "timm/resnet1"])
    with pytest.raises(RecipeError, match="Unknown backbone 'resnet5'; did you mean 'resnet50'"):
        parse_task([RECIPE, "--backbone", "resnet5"])


def test_pretrained_is_for_timm_and_says_so_where_the_hub_is_out_of_reach():
    with pytest.raises(RecipeError, match="'pretrained' is for a backbone of timm, not for 'vit'"):
        parse_task([RECIPE, "--backbone", "vit", "--backbone_weights", "pretrained"])
    with pytest.raises(BackboneKeysError, match=r"hf download timm/test_resnet\S+ --local-dir FOLDER"):
        CsrForImageClassification.from_backbone_pretrained("pretrained", config("timm/test_resnet"))


def test_pixels_are_normalised_as_the_weights_of_timm_were(tmp_path):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    weights = ["--backbone_weights", str(tmp_path / "weights.safetensors")]
    task = parse_task([RECIPE, "--backbone", "timm/test_resnet", *weights])
    assert channel_statistics(task.model_args, task.data_args) == timm_statistics("timm/test_resnet")
    task = parse_task([RECIPE, "--backbone", "timm/test_resnet"])
    assert channel_statistics(task.model_args, task.data_args) == {}
