"""Hidden states, attentions and input layers of every model folder; see `test_models_common`."""

import pytest
import torch
from models import suite_csr, suite_multimodal_fer
from models.test_models_common import build, every_model, inputs_for, take, with_layers
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.utils import ModelOutput

from hf_fer.models.csr import CsrForImageClassification
from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification

RECORD = {"output_hidden_states": True, "output_attentions": True}


def one(suite, model_class) -> dict[str, torch.Tensor]:
    """One example without padding."""
    return take(inputs_for(model_class, suite.batch()), slice(0, 1))


def shapes(output: ModelOutput, names: list[str]) -> dict[str, list[tuple[int, ...]]]:
    return {name: [tuple(state.shape) for state in output[name]] for name in names}


@with_layers
def test_states_are_returned_where_they_are_asked_for(suite, model_class):
    model, expected = build(suite, model_class), suite.states()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        without = model(**one(suite, model_class))
        asked = model(**one(suite, model_class), **RECORD)
        model.config.output_hidden_states = model.config.output_attentions = True
        configured = model(**one(suite, model_class))
        refused = model(**one(suite, model_class), output_hidden_states=False, output_attentions=False)
    assert set(without) == set(refused) == set(asked) - set(expected)
    assert shapes(asked, list(expected)) == shapes(configured, list(expected)) == expected
    torch.testing.assert_close(suite.main_output(asked), suite.main_output(without), rtol=0, atol=0)
    for weights in asked.attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


@with_layers
def test_trainer_does_not_gather_the_states(suite, model_class):
    assert set(suite.states()) <= set(suite.config().keys_to_ignore_at_inference)


@with_layers
def test_gradients_reach_the_states(suite, model_class):
    model = build(suite, model_class)
    model.requires_grad_(True)
    model.set_attn_implementation("eager")
    output = model(**one(suite, model_class), **RECORD)
    recorded = [state for name in suite.states() for state in output[name][:-1]]
    main = suite.main_output(output)
    given = torch.autograd.grad(main.square().sum(), recorded, allow_unused=True)
    assert all(value is not None and value.any() for value in given)


@with_layers
def test_some_hidden_states_only(suite, model_class):
    model = build(suite, model_class)
    with torch.no_grad():
        every = model(**one(suite, model_class), output_hidden_states=True)
        some = model(**one(suite, model_class), output_hidden_states=[0, -1])
    for name in suite.states():
        if "hidden" in name:
            assert some[name][1] is None
            torch.testing.assert_close(some[name][0], every[name][0], rtol=0, atol=0)
            torch.testing.assert_close(some[name][-1], every[name][-1], rtol=0, atol=0)


@with_layers
@pytest.mark.parametrize("where", ["argument", "configuration"])
def test_tuple_holds_what_the_dictionary_does(suite, model_class, where):
    model, batch = build(suite, model_class), inputs_for(model_class, suite.batch())
    with torch.no_grad():
        named = model(**batch, output_hidden_states=True).to_tuple()
        if where == "configuration":
            model.config.return_dict = False
        given = model(**batch, output_hidden_states=True, **({"return_dict": False} if where == "argument" else {}))
    assert isinstance(given, tuple)
    assert len(given) == len(named)
    torch.testing.assert_close(given, named, rtol=0, atol=0)


@with_layers
def test_input_layer_can_be_replaced(suite, model_class):
    model = build(suite, model_class)
    first = model.get_input_embeddings()
    seen = []
    first.register_forward_hook(lambda *args: seen.append(args))
    with torch.no_grad():
        model(**one(suite, model_class))
    assert len(seen) == 1
    model.set_input_embeddings(other := nn.Identity())
    assert model.get_input_embeddings() is other


@pytest.mark.parametrize("modalities", [["audio"], ["video"], ["audio", "video"]], ids="-".join)
def test_adapters_of_frozen_encoders_learn_under_reentrant_checkpointing(modalities):
    """What PEFT asks for: without an input layer to hook, a checkpointed layer passes no gradient to its adapter."""
    config = suite_multimodal_fer.config()
    config = MultimodalFerConfig.from_dict({**config.to_dict(), "modalities": modalities})
    model = MultimodalFerForEmotionClassification(config)
    # In these encoders only: what lies behind them has none whose gradient would be there anyway.
    adapted = get_peft_model(model, LoraConfig(target_modules=r".*_encoder.*\.0\..*q_proj"))
    adapted.activation_checkpointing_enable({"use_reentrant": True})
    adapted.enable_input_require_grads()
    adapted.train()
    names = {"audio": ("input_features", "attention_mask"), "video": ("pixel_values", "frame_mask")}
    batch = suite_multimodal_fer.batch(2)
    inputs = {name: batch[name] for modality in modalities for name in names[modality]}
    adapted(**inputs, labels=batch["labels"]).loss.backward()
    learning = [name for name, value in adapted.named_parameters() if "lora_B" in name and value.grad.any()]
    assert len(learning) == len(modalities)


@pytest.mark.parametrize(("fields", "name"), [({}, "pixel_values"), ({"visual_feature_size": 5}, "visual_features")])
def test_main_input_of_a_model_without_sound(fields, name):
    config = suite_multimodal_fer.config().to_dict()
    model = MultimodalFerForEmotionClassification(
        MultimodalFerConfig.from_dict({**config, "modalities": ["video"], **fields})
    )
    assert model.main_input_name == model.model.main_input_name == name


@pytest.mark.parametrize("backbone", list(suite_csr.BACKBONES))
def test_every_backbone_gives_hidden_states(backbone):
    model = CsrForImageClassification(suite_csr.config(backbone)).eval()
    pixels = suite_csr.batch()["pixel_values"]
    with torch.no_grad():
        output, without = model(pixels, output_hidden_states=True), model(pixels)
    assert len(output.hidden_states) > 1
    assert all(len(state) == len(pixels) for state in output.hidden_states)
    torch.testing.assert_close(output.concept_logits, without.concept_logits, rtol=0, atol=0)


@pytest.mark.parametrize("backbone", ["resnet50", "convnext", "timm/test_vit"])
def test_attentions_that_a_backbone_has_not_are_refused(backbone):
    model = CsrForImageClassification(suite_csr.config(backbone)).eval()
    with pytest.raises(ValueError, match="give no attentions"):
        model(suite_csr.batch()["pixel_values"], output_attentions=True)


@every_model
def test_compiled_it_gives_the_same(suite, model_class):
    """Graph capture with ahead-of-time autograd; the code generator after it is torch's own matter."""
    model, inputs = build(suite, model_class), inputs_for(model_class, suite.batch())
    with torch.no_grad():
        expected = suite.main_output(model(**inputs))
        found = suite.main_output(torch.compile(model, backend="aot_eager")(**inputs))
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@every_model
def test_loads_by_a_device_map(suite, model_class, tmp_path):
    model, inputs = build(suite, model_class), inputs_for(model_class, suite.batch())
    model.save_pretrained(tmp_path)
    mapped = model_class.from_pretrained(tmp_path, device_map={"": "cpu"})
    with torch.no_grad():
        torch.testing.assert_close(suite.main_output(mapped(**inputs)), suite.main_output(model(**inputs)))
