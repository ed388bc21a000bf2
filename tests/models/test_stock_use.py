"""Models and processors with the libraries' own pipelines, Trainer and flags: they work, or say in a line why not."""

import numpy as np
import pytest
import torch
from media import talking_clip
from models import suite_csr, suite_multimodal_fer
from models.csr.test_csr_pipeline import IMAGE, save_model, score
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor, Trainer, TrainingArguments, ViTImageProcessor, pipeline

from hf_fer.adapters import LoraSettings, add_lora
from hf_fer.experiment.one_run import check_checkpointing
from hf_fer.models.csr import CsrForImageClassification, CsrProcessor
from hf_fer.models.csr.backbone_csr import feature_map
from hf_fer.models.csr.train.task import CsrTask
from hf_fer.models.multimodal_fer import MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.train.arguments import MultimodalFerDataArguments
from hf_fer.models.multimodal_fer.train.preprocessing import new_processor
from hf_fer.models.multimodal_fer.train.task import MultimodalFerTask
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import build_task


@pytest.fixture(scope="module")
def csr_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("csr"))


@pytest.fixture(scope="module")
def fer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fer")
    torch.manual_seed(0)
    MultimodalFerForEmotionClassification(suite_multimodal_fer.config()).save_pretrained(folder)
    fer_processor().save_pretrained(folder)
    return folder


def fer_processor():
    return new_processor(MultimodalFerDataArguments(dataset="demo", num_frames=6, image_size=32))


class TestStockPipelines:
    def test_image_classification_gives_our_scores(self, csr_folder, tmp_path):
        Image.fromarray(IMAGE).save(tmp_path / "a.png")
        stock = pipeline("image-classification", model=str(csr_folder))(str(tmp_path / "a.png"))
        ours = pipeline("concept-image-classification", model=str(csr_folder))(str(tmp_path / "a.png"))
        for answer in stock:
            assert answer["score"] == pytest.approx(score(ours, answer["label"]), abs=1e-3)

    def test_its_pixels_are_ours(self, csr_folder):
        """But for the rounding of a picture that is resized in 8 bits."""
        alone = AutoImageProcessor.from_pretrained(csr_folder)(Image.fromarray(IMAGE), return_tensors="pt")
        ours = CsrProcessor.from_pretrained(csr_folder)(IMAGE)
        torch.testing.assert_close(alone["pixel_values"], ours["pixel_values"], rtol=0, atol=1.01 / 127.5)

    def test_video_classification_says_which_to_use(self, fer_folder, tmp_path):
        video = talking_clip(tmp_path / "a.mp4")
        stock = pipeline("video-classification", model=str(fer_folder))
        with pytest.raises(ValueError, match="audio-visual-emotion-recognition"):
            stock(str(video))

    @pytest.mark.parametrize(("stage", "tag"), [(1, None), (3, "image-classification")])
    def test_a_tag_is_of_a_pipeline_that_gives_our_scores(self, stage, tag, tmp_path):
        start = {"model_name_or_path": str(tmp_path)} if stage > 1 else {}
        model_args = CsrTask.model_arguments(stage=stage, **start)
        assert CsrTask(model_args, CsrTask.data_arguments(dataset="demo"), None).pipeline_tag == tag
        assert MultimodalFerTask.pipeline_tag is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
class TestHalfPrecision:
    def test_csr(self, csr_folder, dtype):
        whole, half = (
            pipeline("concept-image-classification", model=str(csr_folder), dtype=kind) for kind in ("float32", dtype)
        )
        for answer in half(IMAGE)["labels"]:
            assert answer["score"] == pytest.approx(score(whole(IMAGE), answer["label"]), abs=0.03)

    def test_multimodal_fer(self, fer_folder, dtype):
        sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
        clip = {"audio": sound, "sampling_rate": 16000, "video": np.stack([IMAGE] * 8)}
        answers = []
        for kind in ("float32", dtype):
            found = pipeline("audio-visual-emotion-recognition", model=str(fer_folder), dtype=kind)
            answers.append({entry["label"]: entry["score"] for entry in found(clip)})
        assert answers[1] == pytest.approx(answers[0], abs=0.05)


def test_bf16_full_eval(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", bf16_full_eval=True)
    model = CsrForImageClassification(suite_csr.config("resnet50"))
    rows = [{name: value[index] for name, value in suite_csr.batch().items()} for index in range(4)]
    assert np.isfinite(Trainer(model=model, args=args, eval_dataset=rows).evaluate()["eval_loss"])


def test_corrections_after_it_go_through_a_model_of_half_precision():
    model = CsrForImageClassification(suite_csr.config("resnet50", stage=3)).bfloat16().eval()
    assert model.classify(torch.zeros(2, 4, 3)).shape == (2, 3)
    assert feature_map(model.backbone, suite_csr.batch()["pixel_values"]).dtype == torch.bfloat16


@pytest.mark.parametrize("system", ["csr", "multimodal_fer"])
def test_the_trainer_takes_the_processor(system, tmp_path):
    if system == "csr":
        model, suite = CsrForImageClassification(suite_csr.config("resnet50")), suite_csr
        processor = CsrProcessor(ViTImageProcessor(size={"height": 32, "width": 32}))
    else:
        model = MultimodalFerForEmotionClassification(suite_multimodal_fer.config())
        suite, processor = suite_multimodal_fer, fer_processor()
    rows = [{name: value[index] for name, value in suite.batch().items()} for index in range(4)]
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", max_steps=1, disable_tqdm=True)
    trainer = Trainer(model=model, args=args, train_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "processor_config.json").is_file()


class TestGradientCheckpointing:
    @pytest.mark.parametrize("backbone", suite_csr.BACKBONES)
    def test_what_a_model_says_it_supports_it_does(self, backbone):
        model = CsrForImageClassification(suite_csr.config(backbone)).train()
        assert model.supports_gradient_checkpointing == (backbone in ("medmae", "vit"))
        if model.supports_gradient_checkpointing:
            model.gradient_checkpointing_enable()
            model(**suite_csr.batch()).loss.backward()
            return
        with pytest.raises(RecipeError, match="gradient_checkpointing: the layers of this CsrForImageClass"):
            check_checkpointing(model, TrainingArguments(gradient_checkpointing=True, use_cpu=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "multimodal_fer"}, "set label_smoothing in config_overrides"),
        ({"task": "csr"}, "csr's losses have no smoothing"),
    ],
)
def test_smoothing_that_would_take_the_loss_away(fields, message, tmp_path):
    recipe = {"dataset": "demo", "output_dir": str(tmp_path), "use_cpu": True, "label_smoothing_factor": 0.1, **fields}
    with pytest.raises(RecipeError, match=message):
        build_task(recipe, "recipe", [])


def test_an_adapted_part_keeps_its_statistics():
    model = MultimodalFerForEmotionClassification(suite_multimodal_fer.config())
    model.freeze(["audio", "vision", "fusion"])
    targets = r"model\.audio_encoder\.layers\.\d+\.self_attn\.q_proj"
    adapted = add_lora(model, LoraSettings(rank=2, targets=targets)).train()
    assert isinstance(adapted, PeftModel)
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    assert before
    adapted(**suite_multimodal_fer.batch())
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers() if name in before)
