"""Processor, face crops and pipeline of the audio-visual model."""

import numpy as np
import onnx
import pytest
import torch
from media import grey_frames, talking_clip, tone, write_clip
from onnx import TensorProto, helper
from transformers import (
    AutoFeatureExtractor,
    AutoProcessor,
    ParakeetFeatureExtractor,
    SiglipImageProcessor,
    pipeline,
    set_seed,
)

from hf_fer.data.skipped import SkippedFile
from hf_fer.models.multimodal_fer import (
    MultimodalFerConfig,
    MultimodalFerFeatureExtractor,
    MultimodalFerForEmotionClassification,
    MultimodalFerProcessor,
)
from hf_fer.models.multimodal_fer.decoding_multimodal_fer import UnusableMediaError
from hf_fer.models.multimodal_fer.face_multimodal_fer import NoFaceError, face_cropper


def new_processor(**settings) -> MultimodalFerProcessor:
    return MultimodalFerProcessor(
        MultimodalFerFeatureExtractor(trim_db=settings.pop("trim_db", None)),
        SiglipImageProcessor(size={"height": 64, "width": 64}),
        num_frames=6,
        **settings,
    )


@pytest.fixture
def processor():
    return new_processor()


class TestFeatureExtractor:
    def test_utterance_normalisation_is_parakeets(self):
        wave = tone(1.0, 16000)[0] + np.random.default_rng(0).normal(0, 0.01, 16000).astype(np.float32)
        theirs = ParakeetFeatureExtractor()(wave, sampling_rate=16000, return_tensors="pt")
        ours = MultimodalFerFeatureExtractor(normalize="utterance", preemphasis=0.97).log_mel(wave)
        length = int(theirs["attention_mask"].sum())
        torch.testing.assert_close(ours[:length], theirs["input_features"][0, :length], rtol=1e-4, atol=1e-4)

    def test_global_normalisation_keeps_loudness(self):
        wave = tone(0.5, 16000)[0]
        loud, soft = (MultimodalFerFeatureExtractor().log_mel(wave * gain) for gain in (1.0, 0.1))
        assert (loud - soft).mean() > 0.3
        per_clip = MultimodalFerFeatureExtractor(normalize="utterance")
        assert (per_clip.log_mel(wave) - per_clip.log_mel(wave * 0.1)).abs().mean() < 0.3

    def test_silent_ends_are_cut_with_a_margin(self):
        wave = np.concatenate([np.zeros(16000), tone(0.5, 16000)[0], np.zeros(8000)]).astype(np.float32)
        kept = MultimodalFerFeatureExtractor(trim_db=35).trim(wave)
        assert 0.5 * 16000 <= len(kept) <= 0.7 * 16000
        assert len(MultimodalFerFeatureExtractor().trim(wave)) == len(wave)
        assert len(MultimodalFerFeatureExtractor(trim_db=35).trim(np.zeros(800, np.float32))) == 800

    def test_batch_is_padded(self):
        extractor = MultimodalFerFeatureExtractor()
        batch = extractor([tone(0.5, 16000)[0], tone(0.2, 16000)[0]], sampling_rate=16000)
        assert batch["input_features"].shape == (2, 50, 80)
        assert batch["attention_mask"].sum(1).tolist() == [50, 20]
        torch.testing.assert_close(batch["input_features"][1, :20], extractor.log_mel(tone(0.2, 16000)[0]))

    @pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((2, 10)), np.array([np.nan] * 400)])
    def test_bad_samples(self, samples):
        with pytest.raises(ValueError, match=r"mono samples|not finite"):
            MultimodalFerFeatureExtractor().log_mel(samples)

    def test_very_short_sound(self):
        assert MultimodalFerFeatureExtractor().log_mel(np.ones(3, np.float32)).shape == (1, 80)

    def test_wrong_rate_and_unknown_normalisation(self):
        with pytest.raises(ValueError, match="8000 Hz"):
            MultimodalFerFeatureExtractor()(tone(0.1, 8000)[0], sampling_rate=8000)
        with pytest.raises(ValueError, match="normalize"):
            MultimodalFerFeatureExtractor(normalize="none")
        with pytest.raises(ValueError, match="std must be positive, got 0"):
            MultimodalFerFeatureExtractor(std=0)


class TestProcessor:
    def test_it_saves_and_reloads_whole(self, tmp_path):
        processor = new_processor(face_crop="center", trim_db=30)
        MultimodalFerConfig.from_preset("tiny").save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        for loaded in (AutoProcessor.from_pretrained(tmp_path), MultimodalFerProcessor.from_pretrained(tmp_path)):
            assert type(loaded) is MultimodalFerProcessor
            assert (loaded.num_frames, loaded.face_crop) == (6, "center")
            assert loaded.feature_extractor.trim_db == 30
            assert loaded.image_processor.size["height"] == 64
        assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is MultimodalFerFeatureExtractor
        clip = talking_clip(tmp_path / "c.mp4")
        first, second = (item(audio=clip, videos=clip) for item in (processor, loaded))
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)

    def test_file_and_array_give_the_same(self, processor, tmp_path):
        clip = talking_clip(tmp_path / "c.mp4")
        samples = processor.load_audio(clip)
        frames = processor.load_video(clip)
        from_file, from_arrays = processor(audio=clip, videos=clip), processor(audio=samples, videos=frames)
        for name in ("input_features", "attention_mask", "pixel_values", "frame_mask"):
            torch.testing.assert_close(from_file[name], from_arrays[name], rtol=0, atol=0)

    def test_batches_with_holes(self, processor, tmp_path):
        clips = [talking_clip(tmp_path / "a.mp4"), talking_clip(tmp_path / "b.mp4", seconds=0.6)]
        batch = processor(audio=[clips[0], None], videos=[None, clips[1]])
        assert batch["attention_mask"].any(1).tolist() == [True, False]
        assert batch["frame_mask"].any(1).tolist() == [False, True]
        assert batch["pixel_values"].shape == (2, 6, 3, 64, 64)

    def test_a_named_modality_is_always_there(self, processor):
        batch = processor.pad([{}, {}], ("audio", "video"))
        assert batch["input_features"].shape == (2, 16, 80)
        assert not batch["frame_mask"].any()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "Give audio, videos or both"),
            ({"audio": [np.zeros(9, np.float32)] * 2, "videos": [None]}, "2 audio clips and 1 videos"),
            ({"audio": np.zeros(9, np.float32), "sampling_rate": 0}, "sampling_rate must be"),
            ({"audio": np.zeros((2, 3, 4), np.float32)}, "shape"),
            ({"videos": np.zeros((2, 3, 8, 8), np.uint8)}, "uint8"),
            ({"videos": np.zeros((2, 8, 8, 3), np.float32)}, "uint8"),
        ],
    )
    def test_what_is_refused(self, processor, arguments, message):
        with pytest.raises(ValueError, match=message):
            processor(**arguments)

    def test_settings_that_are_refused(self):
        with pytest.raises(ValueError, match="face_crop"):
            new_processor(face_crop="left")


def tiny_yunet(path):
    """
    A model with YuNet's twelve outputs that sees one face, in the brightest cell of its stride-32 grid.

    The real one's weights are not to be had offline; this drives OpenCV's real decoder by the same interface.
    """
    nodes, outputs, constants = [], [], []

    def constant(name, values, dims, kind=TensorProto.FLOAT):
        constants.append(helper.make_tensor(name, kind, dims, values))
        return name

    nodes.append(helper.make_node("ReduceMean", ["input"], ["grey"], axes=[1], keepdims=1))
    for stride in (8, 16, 32):
        nodes.append(
            helper.make_node(
                "AveragePool", ["grey"], [f"pool{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        shape = constant(f"shape{stride}", [1, -1, 1], [3], TensorProto.INT64)
        nodes.append(helper.make_node("Reshape", [f"pool{stride}", shape], [f"flat{stride}"]))
        level = constant(f"level{stride}", [200.0 if stride == 32 else 1e6], [1])
        nodes.append(helper.make_node("Sub", [f"flat{stride}", level], [f"above{stride}"]))
        for name in ("cls", "obj"):
            nodes.append(helper.make_node("Sigmoid", [f"above{stride}"], [f"{name}_{stride}"]))
            outputs.append(
                helper.make_tensor_value_info(f"{name}_{stride}", TensorProto.FLOAT, [1, f"cells{stride}", 1])
            )
        for name, width in (("bbox", 4), ("kps", 10)):
            zeros = constant(f"{name}zeros{stride}", [0.0] * width, [1, 1, width])
            nodes.append(helper.make_node("Mul", [f"flat{stride}", zeros], [f"{name}_{stride}"]))
            outputs.append(
                helper.make_tensor_value_info(f"{name}_{stride}", TensorProto.FLOAT, [1, f"cells{stride}", width])
            )
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "yunet", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)


class TestFaceCrop:
    frames = np.stack(grey_frames(3, 60, 100))

    def test_none_and_center(self):
        assert face_cropper("none")(self.frames) is self.frames
        marked = self.frames.copy()
        marked[:, :, 20:80] = 255
        assert face_cropper("center")(marked).shape == (3, 60, 60, 3)
        assert (face_cropper("center")(marked) == 255).all()

    def test_yunet_crops_every_frame_to_one_box_around_the_face(self, tmp_path):
        frames = np.full((3, 128, 192, 3), 10, np.uint8)
        frames[:, 64:96, 128:160] = 255
        crop = face_cropper("yunet", tiny_yunet(tmp_path / "y.onnx"))(frames)
        assert crop.shape[0] == 3
        assert crop.shape[1] < 96
        assert crop.shape[2] < 96
        assert (crop == 255).any(axis=(1, 2, 3)).all()
        assert crop.mean() > frames.mean() + 20

    def test_no_face(self, tmp_path):
        model = tiny_yunet(tmp_path / "y.onnx")
        with pytest.raises(NoFaceError, match="no face in any of the 2"):
            face_cropper("yunet", model)(np.full((2, 64, 64, 3), 10, np.uint8))
        path = write_clip(tmp_path / "dark.mp4", frames=[np.zeros((64, 64, 3), np.uint8)] * 5)
        with pytest.raises(UnusableMediaError, match="no face"):
            new_processor(face_crop="yunet", yunet_path=model).load_video(path)

    def test_a_model_that_cannot_be_had(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            face_cropper("yunet", str(tmp_path / "none.onnx"))
        with pytest.raises(FileNotFoundError, match=r"yunet_path.*'center' or 'none'"):
            face_cropper("yunet")


class TestPipeline:
    @pytest.fixture(scope="class")
    def classify(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("model")
        set_seed(0)
        model = MultimodalFerForEmotionClassification(MultimodalFerConfig.from_preset("tiny", num_frames=6))
        model.save_pretrained(folder)
        new_processor().save_pretrained(folder)
        return pipeline("audio-visual-emotion-recognition", model=str(folder))

    @pytest.fixture(scope="class")
    def clips(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("clips")
        return [str(talking_clip(folder / f"{n}.mp4", seconds=0.5 + 0.3 * n)) for n in range(4)]

    def test_a_file(self, classify, clips):
        result = classify(clips[0])
        assert sum(item["score"] for item in result) == pytest.approx(1)
        assert [item["score"] for item in result] == sorted((item["score"] for item in result), reverse=True)
        assert {item["label"] for item in result} == set(classify.model.config.id2label.values())
        assert classify(clips[0], top_k=2) == result[:2]

    def test_batches_equal_one_by_one(self, classify, clips):
        """Also where lengths differ and one clip has sound alone."""
        silent = {"audio": tone(0.4, 16000)[0], "sampling_rate": 16000}
        inputs = [*clips, silent, {"video": clips[1]}]
        alone = [classify(item) for item in inputs]
        generator = (item for item in inputs)
        for batch in (classify(inputs, batch_size=3), list(classify(generator, batch_size=2))):
            for one, other in zip(alone, batch, strict=True):
                assert [item["label"] for item in one] == [item["label"] for item in other]
                assert [i["score"] for i in one] == pytest.approx([i["score"] for i in other], abs=1e-5)

    def test_arrays_equal_their_file(self, classify, clips):
        processor = classify.processor
        arrays = {"audio": processor.load_audio(clips[0]), "video": processor.load_video(clips[0])}
        assert classify(arrays) == classify(clips[0])

    def test_a_file_with_one_track(self, classify, tmp_path):
        sound = write_clip(tmp_path / "s.wav", audio=tone(0.5, 44100, channels=2), rate=44100)
        assert classify(str(sound)) == classify({"audio": str(sound)})

    def test_scores_are_calibrated_by_the_stored_temperature(self, classify, clips, monkeypatch):
        plain = classify(clips[0])
        monkeypatch.setattr(classify.model.config, "temperature", 2.0)
        softer = {item["label"]: item["score"] for item in classify(clips[0])}
        square_roots = {item["label"]: item["score"] ** 0.5 for item in plain}
        total = sum(square_roots.values())
        assert softer == pytest.approx({label: value / total for label, value in square_roots.items()}, abs=1e-5)

    def test_it_abstains_where_it_is_asked_to(self, classify, clips, monkeypatch):
        plain = classify(clips[0], top_k=2)
        assert classify(clips[0], top_k=2, abstain=plain[0]["score"] - 0.01) == plain
        unsure = classify(clips[0], top_k=2, abstain=plain[0]["score"] + 0.01)
        assert unsure == [{"label": "abstain", "score": pytest.approx(1 - plain[0]["score"])}, *plain]
        with pytest.raises(ValueError, match="no abstention threshold stored"):
            classify(clips[0], abstain=True)
        monkeypatch.setattr(classify.model.config, "abstention_threshold", 0.99)
        assert classify(clips[0], abstain=True)[0]["label"] == "abstain"
        assert classify(clips[0], top_k=2) == classify(clips[0], top_k=2, abstain=False) == plain
        with pytest.raises(ValueError, match="abstain must be"):
            classify(clips[0], abstain=1.5)

    def test_bad_input(self, classify, tmp_path):
        (tmp_path / "x.mp4").write_text("no")
        with pytest.raises(UnusableMediaError, match=r"x\.mp4"):
            classify(str(tmp_path / "x.mp4"))
        with pytest.raises(ValueError, match="none of what this model"):
            classify({"audio": None})
        with pytest.raises(ValueError, match="Give a file"):
            classify({"sound": "x"})
        with pytest.raises(ValueError, match="top_k"):
            classify({"audio": tone(0.1, 16000)[0]}, top_k=0)
        with pytest.raises(TypeError, match="topk"):
            classify({"audio": tone(0.1, 16000)[0]}, topk=1)


def test_real_video_through_transform_collator_and_model(real_data, tmp_path):
    """All 60 GRID clips; their labels are made up, their decoding is not."""
    from datasets import Dataset

    from hf_fer.models.multimodal_fer.train.clips import ClipCollator, ClipTransform

    clips = sorted(str(path) for path in (real_data / "grid_s1" / "video").glob("*.mpg"))
    rows = {"video": clips, "audio": clips, "labels": [n % 8 for n in range(60)], "index": list(range(60))}
    processor = new_processor(face_crop="center")
    skipped = SkippedFile(tmp_path / "skipped.jsonl")
    data = Dataset.from_dict(rows).with_transform(ClipTransform(processor, ["audio", "video"], skipped))
    set_seed(0)
    model = MultimodalFerForEmotionClassification(MultimodalFerConfig.from_preset("tiny", num_frames=6)).eval()
    loader = torch.utils.data.DataLoader(data, batch_size=20, collate_fn=ClipCollator(processor, ["audio", "video"]))
    for batch in loader:
        assert batch["attention_mask"].any(1).all()
        assert batch["frame_mask"].all()
        with torch.no_grad():
            output = model(**batch)
        assert torch.isfinite(output.logits).all()
        assert torch.isfinite(output.loss)
    assert not skipped.path.exists()
