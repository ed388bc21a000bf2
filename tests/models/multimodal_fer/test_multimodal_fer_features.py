"""Visual features computed elsewhere, from their file through training to the pipeline."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from transformers import AutoProcessor, SiglipImageProcessor, pipeline

from hf_fer.data.loading import DataError
from hf_fer.models.multimodal_fer import (
    MultimodalFerConfig,
    MultimodalFerFeatureExtractor,
    MultimodalFerForEmotionClassification,
    MultimodalFerProcessor,
)
from hf_fer.models.multimodal_fer.decoding_multimodal_fer import UnusableMediaError, load_visual_features
from hf_fer.models.multimodal_fer.train import visual_features
from hf_fer.run import main

RNG = np.random.default_rng(0)


def new_processor(**settings) -> MultimodalFerProcessor:
    return MultimodalFerProcessor(MultimodalFerFeatureExtractor(), SiglipImageProcessor(), num_frames=4, **settings)


class TestLoading:
    @pytest.mark.parametrize(
        ("shape", "loaded"), [((5,), (1, 1, 5)), ((3, 5), (3, 1, 5)), ((3, 2, 5), (3, 2, 5))], ids=str
    )
    def test_shapes(self, shape, loaded, tmp_path):
        features = RNG.normal(size=shape)
        np.save(tmp_path / "clip.npy", features)
        for source in (features, tmp_path / "clip.npy"):
            found = load_visual_features(source)
            assert found.shape == loaded
            np.testing.assert_allclose(found.reshape(shape), features, rtol=1e-6)

    def test_an_archive_gives_each_clip_its_row(self, tmp_path):
        np.savez(tmp_path / "all.npz", keys=["a", "b"], units=np.array([[1.0, 2], [3, 4]]))
        assert load_visual_features(f"{tmp_path}/all.npz::b").tolist() == [[[3, 4]]]
        with pytest.raises(UnusableMediaError, match="no clip 'c'"):
            load_visual_features(f"{tmp_path}/all.npz::c")

    def test_a_rewritten_archive_is_read_anew(self, tmp_path):
        for value in (1.0, 2.0):
            np.savez(tmp_path / "all.npz", keys=["a"], units=np.array([[value]]))
            assert load_visual_features(f"{tmp_path}/all.npz::a").item() == value

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (np.zeros((2, 2, 2, 2)), "got"),
            (np.zeros((0, 3)), "got"),
            (np.array([1.0, np.nan]), "not finite"),
            (np.array([{}]), "not readable"),
        ],
        ids=["axes", "empty", "nan", "pickle"],
    )
    def test_bad_files(self, content, reason, tmp_path):
        np.save(tmp_path / "clip.npy", content)
        with pytest.raises(UnusableMediaError, match=rf"clip\.npy: .*{reason}"):
            load_visual_features(tmp_path / "clip.npy")

    def test_a_missing_file_and_a_wrong_archive(self, tmp_path):
        with pytest.raises(UnusableMediaError, match="not found"):
            load_visual_features(tmp_path / "none.npy")
        np.savez(tmp_path / "x.npz", units=np.zeros(3))
        with pytest.raises(UnusableMediaError, match="needs 'keys'"):
            load_visual_features(f"{tmp_path}/x.npz::a")


def test_features_find_the_sound_of_the_same_performance():
    files = {"video": [None, "v/x.mp4", None], "audio": ["a/03-01-05-01-01-02-07.flac", "x.wav", "y.wav"]}
    rows = pd.DataFrame(files, dtype=object)
    attached = visual_features.attach(rows, "au.npz", ["01-01-05-01-01-02-07", "x"])
    assert attached["video"].tolist() == ["au.npz::01-01-05-01-01-02-07", "au.npz::x", None]


def test_two_files_of_one_name_do_not_share_features():
    rows = pd.DataFrame({"video": [None, None], "audio": ["s1/bbaf2n.wav", "s2/bbaf2n.wav"]})
    with pytest.raises(DataError, match=r"'bbaf2n' would be the features of s1/bbaf2n.wav and of s2/bbaf2n.wav"):
        visual_features.attach(rows, "units.npz", ["bbaf2n"])
    assert visual_features.attach(rows[:1], "units.npz", ["bbaf2n"])["video"].tolist() == ["units.npz::bbaf2n"]


def test_statistics_are_over_frames_and_tokens():
    clips = {str(index): RNG.normal(3, 2, size=(index + 1, 2, 4)).astype(np.float32) for index in range(5)}
    for features in clips.values():
        features[..., 3] = 7.0
    mean, std, tokens = visual_features.statistics(clips, clips.__getitem__)
    flat = np.concatenate([features.reshape(-1, 4) for features in clips.values()])
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, [*flat[:, :3].std(0), 1.0], rtol=1e-4)
    assert tokens == 2


class TestProcessor:
    def test_standardised_thinned_out_and_padded(self):
        processor = new_processor(visual_feature_mean=[1.0, 0.0], visual_feature_std=[2.0, 1.0])
        long = np.stack([np.arange(8.0), np.zeros(8)], axis=1)
        batch = processor(videos=[long, None, np.array([3.0, 5.0])])
        assert batch["visual_features"].shape == (3, 4, 1, 2)
        assert batch["frame_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
        assert batch["visual_features"][0, :, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0]  # frames 1, 3, 5, 7
        assert batch["visual_features"][2, 0, 0].tolist() == [1.0, 5.0]

    def test_other_widths_and_media_files_are_refused(self, tmp_path):
        processor = new_processor(visual_feature_mean=[0.0, 0.0], visual_feature_std=[1.0, 1.0])
        with pytest.raises(UnusableMediaError, match=r"\(1, 3\).*\(1, 2\)"):
            processor(videos=np.zeros(3))
        with pytest.raises(UnusableMediaError, match=r"clip\.mp4: .*not a media file"):
            processor(videos="clip.mp4")

    def test_reload(self, tmp_path):
        new_processor(visual_feature_mean=[1.0], visual_feature_std=[2.0], visual_feature_tokens=3).save_pretrained(
            tmp_path
        )
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert (loaded.visual_feature_mean, loaded.visual_feature_std) == ([1.0], [2.0])
        assert loaded.visual_feature_tokens == 3


class TestModel:
    def test_it_has_no_vision_encoder_and_takes_no_pixels(self):
        model = MultimodalFerForEmotionClassification(
            MultimodalFerConfig.from_preset("tiny", visual_feature_size=5, temporal_num_layers=0)
        )
        assert "vision" not in model.model.parts()
        with pytest.raises(ValueError, match="built for visual_features"):
            model(pixel_values=torch.zeros(1, 2, 3, 64, 64))
        loss = model(visual_features=torch.randn(2, 3, 1, 5), labels=torch.tensor([0, 1])).loss
        loss.backward()
        assert model.model.visual_feature_projection.weight.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def archive(tmp_path_factory, small_ravdess) -> Path:
    """Action units, so to speak: noise, and one column that tells the emotion; the last clip is missing."""
    names = sorted(path.stem for path in small_ravdess.rglob("*.mp4"))[:-1]
    units = RNG.normal(size=(len(names), 6)).astype(np.float32)
    units[:, 2] += [3 * int(name.split("-")[2]) for name in names]
    path = tmp_path_factory.mktemp("features") / "units.npz"
    np.savez(path, keys=names, units=units)
    return path


@pytest.fixture
def recipe(tmp_path, small_ravdess, archive):
    def write(**fields) -> str:
        whole = {
            "task": "multimodal_fer",
            "dataset": str(small_ravdess),
            "visual_features": str(archive),
            "model_size": "tiny",
            "modalities": ["video"],
            "config_overrides": {"temporal_num_layers": 0, "num_global_tokens": 0},
            "num_train_epochs": 15,
            "per_device_train_batch_size": 16,
            "learning_rate": 0.002,
            "output_dir": str(tmp_path / "out"),
            "disable_tqdm": True,
            "use_cpu": True,
            "report_to": "none",
            **fields,
        }
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(whole))
        return str(path)

    return write


def test_a_run_on_features(recipe, tmp_path, archive):
    main([recipe()])
    out = tmp_path / "out"
    metrics = json.loads((out / "report" / "metrics.json").read_text())
    assert metrics["test"]["uar"] > 0.3  # chance is 0.125; no video file has what the features tell
    assert metrics["data"]["skipped"] == 1
    processor = AutoProcessor.from_pretrained(out)
    with np.load(archive) as data:
        train = [int(name[-2:]) <= 16 for name in data["keys"]]
        np.testing.assert_allclose(processor.visual_feature_mean, data["units"][train].mean(0), rtol=1e-4, atol=1e-6)
        units = data["units"][0]
    classify = pipeline("audio-visual-emotion-recognition", model=str(out))
    assert len(classify({"video": units}, top_k=2)) == 2
    main([recipe(do_train=False, model_name_or_path=str(out), output_dir=str(tmp_path / "again"))])
    again = json.loads((tmp_path / "again" / "report" / "metrics.json").read_text())
    assert again["test"]["uar"] == metrics["test"]["uar"]


def test_an_archive_of_other_clips(recipe, tmp_path, capsys):
    np.savez(tmp_path / "other.npz", keys=["one"], units=np.zeros((1, 3)))
    with pytest.raises(SystemExit):
        main([recipe(visual_features=str(tmp_path / "other.npz"))])
    assert "has features of none of the 192 clips" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([recipe(visual_features=str(tmp_path / "none.npz"))])
    assert "none.npz: file not found" in capsys.readouterr().err


def test_files_and_features_do_not_mix(recipe, tmp_path, small_ravdess, capsys):
    clips = sorted(small_ravdess.rglob("*.mp4"))[:48]
    np.save(tmp_path / "units.npy", np.zeros(3))
    rows = [f"{clip},{clip.stem.split('-')[2]},{index % 4}" for index, clip in enumerate(clips)]
    rows[0] = f"{tmp_path}/units.npy,01,0"
    (tmp_path / "clips.csv").write_text("\n".join(["video,label,group", *rows]))
    with pytest.raises(SystemExit):
        main([recipe(dataset=str(tmp_path / "clips.csv"), visual_features=None)])
    assert "one or the other" in capsys.readouterr().err


def test_features_of_clips_of_which_only_the_sound_is_there(recipe, tmp_path, small_ravdess, archive):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    rng = np.random.default_rng(0)  # files of the same bytes would be dropped from training as copies
    for clip in sorted(small_ravdess.rglob("*.mp4")):
        soundfile.write(sounds / f"03{clip.stem[2:]}.wav", rng.uniform(-0.1, 0.1, 1600), 16000)
    main([recipe(dataset=str(sounds), num_train_epochs=1)])
    assert json.loads((tmp_path / "out" / "report" / "metrics.json").read_text())["test"]["samples"] == 31


def test_sound_alone_has_no_video(recipe, tmp_path, capsys):
    soundfile.write(tmp_path / "03-01-05-01-01-02-07.wav", np.zeros(1600), 16000)
    with pytest.raises(SystemExit):
        main([recipe(dataset=str(tmp_path), visual_features=None)])
    assert "None of the 1 RAVDESS recordings has video" in capsys.readouterr().err
