"""Test classes that run transformers' common tests on each model here; see `transformers_drill`."""

import unittest
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import torch
from models import suite_csr, suite_language_id, suite_multimodal_fer
from transformers import (
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ParakeetForCTC,
    SiglipImageProcessor,
    ViTImageProcessor,
)

from hf_fer.models.csr import CsrForImageClassification, CsrProcessor
from hf_fer.models.language_id import LanguageIdNgramForSequenceClassification
from hf_fer.models.multimodal_fer import (
    MultimodalFerConfig,
    MultimodalFerFeatureExtractor,
    MultimodalFerForEmotionClassification,
    MultimodalFerModel,
    MultimodalFerProcessor,
)
from hf_fer.models.speech_to_text.train.model import preset_config

BATCH = 4


class Tester(SimpleNamespace):
    """What the mixins call a model tester: a configuration, inputs, labels, and the shapes of outputs."""

    is_training = True
    batch_size = BATCH

    def get_config(self):
        """A new configuration."""
        return self.make_config()

    def prepare_config_and_inputs_for_common(self):
        """A new configuration and inputs without labels."""
        return self.make_config(), self.make_inputs()


def fer_tester(modalities: list[str]) -> Tester:
    """Small LFM2, FastConformer and SigLIP2; every clip has the modalities that the model has."""
    names = {"audio": ("input_features", "attention_mask"), "video": ("pixel_values", "frame_mask")}
    wanted = [name for modality in modalities for name in names[modality]]

    def make_config() -> MultimodalFerConfig:
        config = suite_multimodal_fer.config()
        return MultimodalFerConfig.from_dict({**config.to_dict(), "modalities": modalities})

    def make_inputs() -> dict[str, torch.Tensor]:
        batch = suite_multimodal_fer.batch(2)
        return {name: torch.cat([batch[name]] * 2) for name in wanted}

    tokens = 4 * len(modalities)
    return Tester(
        make_config=make_config,
        make_inputs=make_inputs,
        labels={"labels": torch.arange(BATCH)},
        num_hidden_layers=1,  # the attention layer; the other one is a convolution
        expected_num_hidden_layers=3,
        num_attention_heads=4,
        hidden_size=32,
        seq_length=tokens,
        num_hidden_states_types=1 + len(modalities),
    )


CSR_SHAPES = {
    "medmae": {"hidden_size": 16, "seq_length": 17},
    "vit": {"hidden_size": 16, "seq_length": 17},
    "resnet50": {"hidden_size": 8, "seq_length": 8},
    "convnext": {"hidden_size": 8, "seq_length": 8},
    "timm/test_vit": {"hidden_size": 2, "seq_length": 2, "expected_num_hidden_layers": 6},
    "timm/test_resnet": {"hidden_size": 16, "seq_length": 16, "expected_num_hidden_layers": 5},
}


def csr_tester(backbone: str, stage: int) -> Tester:
    """A small csr model on images of 32 x 32 pixels."""
    batch = suite_csr.batch(BATCH)
    return Tester(
        make_config=lambda: suite_csr.config(backbone, stage),
        make_inputs=lambda: {"pixel_values": batch["pixel_values"].clone()},
        labels={"concept_labels": batch["concept_labels"], "labels": batch["labels"]},
        num_hidden_layers=2,
        num_attention_heads=2,
        **CSR_SHAPES[backbone],
    )


def text_tester() -> Tester:
    """The stock ModernBERT of language_id's models from scratch."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 90, (BATCH, 12), generator=generator)

    def make_config() -> ModernBertConfig:
        return ModernBertConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            pad_token_id=0,
            cls_token_id=1,
            sep_token_id=2,
            bos_token_id=1,
            eos_token_id=2,
            attention_dropout=0.0,
            mlp_dropout=0.0,
            embedding_dropout=0.0,
            classifier_dropout=0.0,
            num_labels=3,
        )

    return Tester(
        make_config=make_config,
        make_inputs=lambda: {"input_ids": ids.clone(), "attention_mask": torch.ones_like(ids)},
        labels={"labels": torch.zeros(BATCH, dtype=torch.long)},
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_size=32,
        seq_length=12,
    )


def ngrams_tester() -> Tester:
    """The table of n-gram weights, which has no layers."""
    batch = suite_language_id.batch(BATCH)
    return Tester(
        make_config=suite_language_id.config,
        make_inputs=lambda: {name: batch[name].clone() for name in ("input_ids", "attention_mask")},
        labels={"labels": batch["labels"]},
        num_hidden_layers=0,
        seq_length=12,
    )


def speech_tester() -> Tester:
    """The stock Parakeet of speech_to_text's models from scratch."""
    encoder = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "subsampling_conv_channels": 8,
        "layerdrop": 0.0,
        **suite_multimodal_fer.NO_DROPOUT,
        "dropout_positions": 0.0,
    }
    features = torch.randn(BATCH, 128, 80, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(1, 20, (BATCH, 5), generator=torch.Generator().manual_seed(1))
    return Tester(
        make_config=lambda: preset_config("weak", 20, 0, 80, {"encoder_config": dict(encoder)}),
        make_inputs=lambda: {
            "input_features": features.clone(),
            "attention_mask": torch.ones(BATCH, 128, dtype=torch.long),
        },
        labels={"labels": labels},
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_size=32,
        seq_length=32,
    )


def model_case(mixin: type, config_tester: type, tester: Tester, classes: tuple[type, ...], **flags) -> type:
    """A test class for model classes that share a configuration."""

    class Case(mixin, unittest.TestCase):
        all_model_classes = classes
        test_resize_embeddings = False
        _is_composite = bool(type(tester.make_config()).sub_configs)

        def setUp(self):
            self.model_tester = tester
            self.config_tester = config_tester(
                self, config_class=type(tester.make_config()), has_text_modality="input_ids" in tester.make_inputs()
            )

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs_dict, model_class)
            return {**inputs, **tester.labels} if return_labels and "For" in model_class.__name__ else inputs

        def test_config(self):
            self.config_tester.run_common_tests()

        def test_model_get_set_embeddings(self):
            """Embeddings may be any layer, as in transformers' own tests of models without tokens."""
            for model_class in self.all_model_classes:
                model = model_class(tester.make_config())
                try:
                    assert isinstance(model.get_input_embeddings(), torch.nn.Module)
                except NotImplementedError as error:
                    self.skipTest(str(error))
                model.set_input_embeddings(other := torch.nn.Identity())
                assert model.get_input_embeddings() is other

    for name in TRAINING:
        setattr(Case, name, with_losses(getattr(mixin, name)))
    for name, value in flags.items():
        setattr(Case, name, value)
    return Case


TRAINING = (
    "test_training",
    "test_training_gradient_checkpointing",
    "test_training_gradient_checkpointing_use_reentrant_false",
    "test_training_gradient_checkpointing_use_reentrant_true",
)


def with_losses(test: Callable) -> Callable:
    """The test on classes that have a loss; the mixin itself skips only the base models of transformers."""

    def run(self):
        self.all_model_classes = tuple(each for each in self.all_model_classes if "For" in each.__name__)
        test(self)

    return run


def processor_case(mixin: type, processor: type, components: dict[str, Callable]) -> type:
    """A test class for a processor whose components need no files."""
    setups = {f"_setup_{name}": staticmethod(make) for name, make in components.items()}
    return type("Case", (mixin, unittest.TestCase), {"processor_class": processor, **setups})


def cases(common: Callable[[str], ModuleType]) -> dict[str, type]:
    """The test classes by name; `common` imports a module of transformers' own tests."""
    mixin = common("test_modeling_common").ModelTesterMixin
    config_tester = common("test_configuration_common").ConfigTester
    processing = common("test_processing_common").ProcessorTesterMixin
    saving = common("test_feature_extraction_common").FeatureExtractionSavingTestMixin
    fer = (MultimodalFerModel, MultimodalFerForEmotionClassification)
    found = {}

    def add(name: str, case: type) -> None:
        case.__name__ = case.__qualname__ = name
        case.__module__ = __name__
        found[name] = case

    def add_model(name: str, tester: Tester, classes: tuple[type, ...], **flags) -> None:
        add(name, model_case(mixin, config_tester, tester, classes, **flags))

    add_model("FerBothTest", fer_tester(["audio", "video"]), fer)
    add_model("FerAudioTest", fer_tester(["audio"]), fer)
    add_model("FerVideoTest", fer_tester(["video"]), fer)
    for backbone, stage in [*((backbone, 1) for backbone in CSR_SHAPES), ("vit", 3), ("resnet50", 3)]:
        name = backbone.replace("timm/test_", "timm_").title().replace("_", "")
        flags = {"has_attentions": backbone in ("medmae", "vit"), "test_all_params_have_gradient": stage == 1}
        tester = csr_tester(backbone, stage)
        add_model(f"Csr{name}Stage{stage}Test", tester, (CsrForImageClassification,), **flags)
    add_model("LanguageIdTest", text_tester(), (ModernBertForSequenceClassification,))
    ngrams = (LanguageIdNgramForSequenceClassification,)
    add_model("LanguageIdNgramsTest", ngrams_tester(), ngrams, has_attentions=False)
    add_model("SpeechToTextTest", speech_tester(), (ParakeetForCTC,), all_generative_model_classes=())
    add("CsrProcessorTest", processor_case(processing, CsrProcessor, {"image_processor": ViTImageProcessor}))
    parts = {"feature_extractor": MultimodalFerFeatureExtractor, "image_processor": SiglipImageProcessor}
    add("FerProcessorTest", processor_case(processing, MultimodalFerProcessor, parts))
    extractor = {
        "feature_extraction_class": MultimodalFerFeatureExtractor,
        "feat_extract_dict": property(lambda self: {"feature_size": 80, "sampling_rate": 16000, "mean": -10.0}),
    }
    add("FerFeatureExtractorTest", type("Case", (saving, unittest.TestCase), extractor))
    return found


__all__ = ["CSR_SHAPES", "cases"]
