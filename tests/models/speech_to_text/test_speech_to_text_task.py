"""Whole runs of speech_to_text, small: training, report, pipelines, evaluation and a new start."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from models.speech_to_text.recipes import DECODERS, TINY, task_of
from transformers import (
    AutoModelForCTC,
    LasrFeatureExtractor,
    NemotronAsrStreamingFeatureExtractor,
    ParakeetForCTC,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    pipeline,
)
from transformers import Wav2Vec2FeatureExtractor as FeatureExtractor

from hf_fer.data.augment import slaney_hertz
from hf_fer.data.loading import DataError
from hf_fer.experiment.one_run import dry_run, run
from hf_fer.models.speech_to_text.alignment_speech_to_text import frame_lengths
from hf_fer.models.speech_to_text.sound_speech_to_text import load_audio
from hf_fer.models.speech_to_text.train import arguments
from hf_fer.models.speech_to_text.train.demo import make_demo
from hf_fer.models.speech_to_text.train.model import (
    PADDED,
    best_frames,
    mel_hertz,
    new_extractor,
    new_model,
    prepare,
    preset_config,
)
from hf_fer.models.speech_to_text.train.source import names_of
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import build_task
from hf_fer.task.settings import shared_patterns


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def trained(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "out"
    rows = pd.read_csv(manifest)
    rows["file_path"] = [str(manifest.parent / name) for name in rows["file_path"]]
    rows["accent"] = np.where(rows.index % 2, "north", None)
    rows.to_csv(folder.parent / "accents.csv", index=False)
    fields = {"units": "nfd", "num_train_epochs": 2, "metric_for_best_model": "cer", **DECODERS}
    run(task_of(folder.parent / "accents.csv", folder, **fields))
    return folder


class TestRecipe:
    def test_lower_is_better(self, manifest, tmp_path):
        assert task_of(manifest, tmp_path).training_args.greater_is_better is False
        assert task_of(manifest, tmp_path, metric_for_best_model="eval_cer").training_args.greater_is_better is False
        assert task_of(manifest, tmp_path, greater_is_better=True).training_args.greater_is_better is True

    def test_other_systems_keep_theirs(self, tmp_path):
        recipe = {"task": "language_id", "dataset": "demo", "output_dir": str(tmp_path)}
        assert build_task(recipe, "recipe", []).training_args.greater_is_better is True
        assert not build_task(
            {**recipe, "metric_for_best_model": "loss"}, "recipe", []
        ).training_args.greater_is_better


class TestData:
    def test_a_dry_run_counts_examples(self, manifest, tmp_path, capsys):
        dry_run(task_of(manifest, tmp_path, dry_run=True))
        page = capsys.readouterr().out
        assert "| train | 24 |" in page
        assert "Nothing was trained" in page

    def test_counts_without_classes(self, manifest, tmp_path):
        data = task_of(manifest, tmp_path).load_data()
        assert data.labels == []
        assert data.counts() == {"train": {"examples": 24}, "validation": {"examples": 8}, "test": {"examples": 8}}

    def test_speakers_without_splits_are_kept_apart(self, manifest, tmp_path):
        rows = pd.read_csv(manifest).drop(columns="split")
        rows["file_path"] = [str(manifest.parent / name) for name in rows["file_path"]]
        rows.to_csv(tmp_path / "plain.csv", index=False)
        data = task_of(tmp_path / "plain.csv", tmp_path / "out", max_train_samples=None).load_data()
        speakers = [set(split["group"]) for split in data.splits.values()]
        assert len(speakers) == 3
        assert not set.intersection(*speakers)
        assert sum(map(len, speakers)) == len(set.union(*speakers))

    def test_long_transcripts_and_unknown_characters_are_named(self, manifest, tmp_path):
        rows = pd.read_csv(manifest)
        rows["file_path"] = [str(manifest.parent / name) for name in rows["file_path"]]
        first = rows["file_path"][0]
        rows.loc[0, "transcript"] = "ba " * 200
        rows.loc[rows["split"] == "test", "transcript"] += " zz"
        rows.to_csv(tmp_path / "bad.csv", index=False)
        data = task_of(tmp_path / "bad.csv", tmp_path / "out", max_train_samples=None).load_data()
        assert [entry["path"] for entry in data.skipped] == [first]
        assert "needs" in data.skipped[0]["reason"]
        assert any("'z' (8)" in note for note in data.notes)
        assert len(data.splits["test"]) == 8

    def test_a_folder_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="not a table of recordings"):
            task_of(tmp_path, tmp_path / "out").load_data()


class TestRun:
    def test_the_checkpoint_with_the_lowest_rate_is_the_best(self, trained):
        state = json.loads((trained / "trainer_state.json").read_text())
        rates = [entry["eval_cer"] for entry in state["log_history"] if "eval_cer" in entry]
        assert len(rates) == 2
        assert state["best_metric"] == min(rates)

    def test_report_has_the_rates_and_tables(self, trained):
        metrics = json.loads((trained / "report" / "metrics.json").read_text())
        for split in ("validation", "test"):
            found = metrics[split]
            assert {"wer", "cer", "tone_error_rate", "base_letter_error_rate", "real_time_factor"} <= found.keys()
            assert found["samples"] == 8
            assert 0 <= found["blank_share"] <= 1
        assert metrics["data"]["counts"]["train"] == {"examples": 24}
        utterances = pd.read_csv(trained / "report" / "utterances.csv")
        assert len(utterances) == 16
        assert (trained / "report" / "tones.png").is_file()
        assert "| split | examples |" in (trained / "report" / "report.md").read_text()

    def test_how_sure_words_are_and_the_worst_utterances_are_in_the_report(self, trained):
        report = trained / "report"
        metrics = json.loads((report / "metrics.json").read_text())["test"]
        assert metrics["inference_real_time_factor"] > 0
        found = pd.read_csv(report / "word_confidence.csv")
        if metrics["word_confidence"]:
            right, words = (found["share_right"] * found["words"]).sum(), found["words"].sum()
            assert right / words == pytest.approx(metrics["word_confidence"]["share_right"], abs=1e-3)
            assert words + metrics["deletions"] - metrics["insertions"] == metrics["words"]
            assert any("temperature" in remark for remark in metrics["remarks"])
            config = json.loads((trained / "config.json").read_text())
            assert config["word_temperature"] == metrics["word_confidence"].get("temperature", 1.0)
            assert {"word_temperature", "abstention_threshold"} <= config.keys()
        assert pd.read_csv(report / "errors_by_confidence.csv")["utterances"].sum() == 8
        assert list(pd.read_csv(report / "errors_by_accent.csv", keep_default_na=False)["accent"]) == ["", "north"]
        aligned = (report / "alignments.txt").read_text()
        assert aligned.count("REF: ") == 16
        assert aligned.count("HYP: ") == 16

    @pytest.mark.skipif(not DECODERS, reason="needs flashlight-text and kenlm")
    def test_decoders_are_compared_in_one_table(self, trained):
        metrics = json.loads((trained / "report" / "metrics.json").read_text())["test"]
        table = pd.read_csv(trained / "report" / "decoders.csv").set_index("decoder")
        assert list(table.index) == ["greedy", "beam", "beam_lm"]
        assert table["wer"]["greedy"] == pytest.approx(metrics["wer"], abs=1e-4)
        assert table["wer"]["beam_lm"] == pytest.approx(metrics["beam_lm"]["wer"], abs=1e-4)
        assert {"cer", "tone_error_rate", "substitutions"} <= set(table)
        assert (trained / "report" / "train.arpa").is_file()

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"beam_width": -1}, "0 or more"),
            ({"lm": "train"}, "needs a beam search"),
            ({"lm": "absent.arpa", "beam_width": 4}, "absent.arpa is neither a file nor"),
        ],
    )
    def test_decoders_that_cannot_be_are_refused_at_once(self, manifest, tmp_path, fields, said):
        with pytest.raises(RecipeError, match=said):
            task_of(manifest, tmp_path, **fields)

    def test_libraries_of_a_decoder_are_missed_before_files_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(arguments, "find_spec", lambda name: None)
        task = task_of(tmp_path / "absent.csv", tmp_path, beam_width=4, lm="train")
        with pytest.raises(RecipeError, match=r"flashlight and kenlm: pip install 'hf_fer\[lm\]'"):
            task.load_data()

    def test_what_names_words_and_speakers_is_not_shared(self, manifest, tmp_path):
        patterns = shared_patterns(task_of(manifest, tmp_path))
        named = ("utterances.csv", "worst_utterances.csv", "word_confusions.csv", "errors_by_speaker.csv")
        for name in (*named, "alignments.txt", "train.arpa"):
            assert f"report/{name}" not in patterns
        assert "*_speech_to_text.py" in patterns

    def test_the_model_is_a_stock_one(self, trained):
        assert type(AutoModelForCTC.from_pretrained(trained)) is ParakeetForCTC
        config = json.loads((trained / "config.json").read_text())
        assert config["architectures"] == ["ParakeetForCTC"]
        assert config["inputs_to_logits_ratio"] == 640

    def test_stock_pipeline_gives_our_text(self, trained, manifest):
        stock = pipeline("automatic-speech-recognition", model=str(trained))
        ours = pipeline("timed-speech-recognition", model=str(trained))
        for path in sorted(manifest.parent.glob("test_0_*.wav"))[:6]:
            samples = load_audio(path, 16000)
            answer = ours(str(path))
            assert answer["text"] == " ".join(stock(samples)["text"].split())
            assert " ".join(word["word"] for word in answer["words"]) == answer["text"]
            assert all(0 <= word["start"] < word["end"] <= len(samples) / 16000 + 0.08 for word in answer["words"])
            assert ours({"array": samples, "sampling_rate": 16000})["text"] == answer["text"]

    def test_evaluation_alone_gives_the_same_scores(self, trained, manifest, tmp_path):
        fields = {"model_name_or_path": str(trained), "do_train": False}
        task = task_of(manifest, tmp_path / "again", **fields)
        run(task)
        report = next(tmp_path.rglob("metrics.json"), None) or next(trained.rglob("*/report/metrics.json"))
        found = json.loads(report.read_text())["test"]
        before = json.loads((trained / "report" / "metrics.json").read_text())["test"]
        assert {name: found[name] for name in ("wer", "cer", "loss")} == pytest.approx(
            {name: before[name] for name in ("wer", "cer", "loss")}, abs=1e-5
        )

    def test_other_characters_get_another_head(self, trained, manifest, tmp_path, caplog):
        rows = pd.read_csv(manifest)
        rows["file_path"] = [str(manifest.parent / name) for name in rows["file_path"]]
        rows["transcript"] += " zoo"
        rows.to_csv(tmp_path / "other.csv", index=False)
        task = task_of(
            tmp_path / "other.csv", tmp_path / "out", model_name_or_path=str(trained), config_overrides=None
        )
        data = task.load_data()
        processor = task.build_processor(data)
        model = task.build_model(data, processor)
        assert "head is initialised again" in caplog.text
        assert model.ctc_head.out_channels == len(processor.tokenizer)
        old = AutoModelForCTC.from_pretrained(trained)
        assert torch.equal(old.encoder.layers[0].norm_out.weight, model.encoder.layers[0].norm_out.weight)


def test_any_ctc_checkpoint_starts_a_training(manifest, tmp_path):
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        mask_time_prob=0.0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "w2v")
    FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path / "w2v")
    task = task_of(
        manifest,
        tmp_path / "out",
        model_name_or_path=str(tmp_path / "w2v"),
        config_overrides=None,
        max_train_samples=8,
    )
    run(task)
    text = pipeline("timed-speech-recognition", model=str(tmp_path / "out"))(np.zeros(16000, np.float32))["text"]
    assert isinstance(text, str)


def test_frames_of_padding_are_blank_and_not_counted():
    torch.manual_seed(0)
    model = prepare(new_model(preset_config("weak", 12, 0, 160, {"encoder_config": TINY}))).eval()
    features, mask = torch.randn(2, 101, 80), torch.ones(2, 101, dtype=torch.bool)
    mask[:, 100] = False
    mask[1, 60:] = False
    with torch.no_grad():
        logits = model(input_features=features, attention_mask=mask).logits
    lengths = frame_lengths(model, mask)
    assert lengths.tolist() == [25, 15]
    best = best_frames(logits, None)
    assert (best[0] >= 0).sum() == 25
    assert (best[1] >= 0).sum() == 15
    assert logits[1, 15:, 1:].max() == PADDED
    assert (logits[1, 15:].argmax(dim=-1) == 0).all()


def test_the_first_frame_of_padding_learns_to_be_blank():
    torch.manual_seed(0)
    model = prepare(new_model(preset_config("weak", 12, 0, 160, {"encoder_config": TINY}))).train()
    mask = torch.ones(1, 101, dtype=torch.bool)
    mask[:, 100] = False
    batch = {"input_features": torch.randn(1, 101, 80), "attention_mask": mask, "labels": torch.tensor([[3, 4]])}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert model(**batch).logits[0, 25].argmax() == 0


class TestFeatures:
    def test_a_model_has_the_bands_of_its_features(self, manifest, tmp_path):
        task = task_of(manifest, tmp_path, mel_bins=40)
        data = task.load_data()
        processor = task.build_processor(data)
        model = task.build_model(data, processor)
        batch = task.collator(processor)([task.with_transforms(data, processor, None)["validation"][0]])
        assert batch["input_features"].shape[2] == model.config.encoder_config.num_mel_bins == 40
        assert torch.isfinite(model(**batch).loss)

    @pytest.mark.parametrize(
        ("features", "rate"), [("parakeet", 8000), ("parakeet", 22050), ("lasr", 16000), ("nemotron", 8000)]
    )
    def test_they_are_10_ms_apart_at_any_rate(self, features, rate):
        samples = np.random.default_rng(0).normal(size=rate).astype(np.float32)
        made = new_extractor(rate, features)(samples, sampling_rate=rate, return_attention_mask=True)
        assert 98 <= np.asarray(made["attention_mask"]).sum() <= 100

    def test_frequencies_of_mel_bins(self):
        np.testing.assert_allclose(mel_hertz(new_extractor(16000, "parakeet")), slaney_hertz(80, 16000), atol=35)
        hertz = mel_hertz(new_extractor(16000, "lasr"))
        assert 125 < hertz[0] < 200
        assert 7000 < hertz[-1] < 7500
        assert (np.diff(hertz) > 0).all()

    @pytest.mark.parametrize(("features", "mean"), [("lasr", -5), ("nemotron", -12)])
    def test_a_new_model_takes_the_mean_off_what_the_extractor_leaves(self, features, mean):
        config = preset_config("weak", 12, 0, 160, {"encoder_config": TINY})
        layers = []
        for name in ("parakeet", features):
            torch.manual_seed(0)
            layers.append(new_model(config, name).encoder.subsampling.layers[0])
        x = torch.randn(1, 1, 20, 80) * 4 + mean
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        torch.testing.assert_close(layers[1](x)[inner], layers[0]((x - mean) / 4)[inner], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        ("features", "rate", "extractor"),
        [("lasr", 16000, LasrFeatureExtractor), ("nemotron", 8000, NemotronAsrStreamingFeatureExtractor)],
    )
    def test_other_features_and_rates_come_back_with_the_model(self, manifest, tmp_path, features, rate, extractor):
        task = task_of(manifest, tmp_path / "out", features=features, sampling_rate=rate)
        data = task.load_data()
        processor = task.build_processor(data)
        torch.manual_seed(0)
        task.build_model(data, processor).save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        samples = load_audio(data.splits["validation"][0]["audio"], rate)
        ours = pipeline("timed-speech-recognition", model=str(tmp_path / "model"))
        assert type(ours.feature_extractor) is extractor
        text = ours(samples)["text"]
        assert text
        stock = pipeline("automatic-speech-recognition", model=str(tmp_path / "model"))
        assert " ".join(stock(samples)["text"].split()) == text

    def test_a_rate_that_lasr_cannot_have_is_refused(self, manifest, tmp_path):
        with pytest.raises(RecipeError, match="sampling_rate of 15000"):
            task_of(manifest, tmp_path, features="lasr", sampling_rate=8000).load_data()

    def test_frequencies_that_no_recording_has_are_named(self, manifest, tmp_path):
        """The demo's recordings have 16,000 samples a second."""
        higher, own = (task_of(manifest, tmp_path, sampling_rate=rate).load_data().notes for rate in (24000, 16000))
        assert any("above 8000 Hz" in note and "--sampling_rate 16000" in note for note in higher)
        assert not any("sampling rates" in note for note in own)


def test_an_unknown_field_of_the_encoder_is_refused():
    with pytest.raises(ValueError, match=r"encoder_config\.layers"):
        preset_config("weak", 12, 0, 160, {"encoder_config": {"layers": 3}})


class TestMoreDatasets:
    def test_each_is_split_by_itself_and_scored_by_itself(self, manifest, tmp_path):
        rows = pd.read_csv(manifest)
        rows["file_path"] = [str(manifest.parent / name) for name in rows["file_path"]]
        parts = {"ours": rows[rows.index % 2 == 0].drop(columns="split"), "theirs": rows[rows.index % 2 == 1]}
        for name, part in parts.items():
            (tmp_path / name).mkdir()
            part.drop(columns=["speaker_id"] if name == "theirs" else []).to_csv(
                tmp_path / name / "manifest.csv", index=False
            )
        paths = [str(tmp_path / name / "manifest.csv") for name in parts]
        task = task_of(paths[0], tmp_path / "out", more_datasets=paths[1:], max_train_samples=None)
        data = task.load_data()
        for split, named in data.splits.items():
            assert set(named["corpus"]) == {"ours/manifest", "theirs/manifest"}, split
        groups = [set(named["group"]) - {None} for named in data.splits.values()]
        assert not set.intersection(*groups)
        assert any(note.startswith("theirs/manifest: The manifest has no 'group' column") for note in data.notes)

    def test_a_speaker_on_two_sides_of_two_data_sets_is_refused(self, manifest, tmp_path):
        rows = pd.read_csv(manifest)
        rows["file_path"] = [str(manifest.parent / name) for name in rows["file_path"]]
        more = rows[rows["split"] == "test"].head(3).assign(split="train")
        rows[~rows["file_path"].isin(more["file_path"])].to_csv(tmp_path / "ours.csv", index=False)
        more.to_csv(tmp_path / "more.csv", index=False)
        task = task_of(tmp_path / "ours.csv", tmp_path / "out", more_datasets=[str(tmp_path / "more.csv")])
        with pytest.raises(DataError, match="'group' are in more than one split"):
            task.load_data()

    def test_equal_names_have_numbers(self):
        assert names_of(["a/x.csv", "b/y.csv"]) == ["x", "y"]
        assert names_of(["a/x.csv", "b/x.csv"]) == ["a/x", "b/x"]
        assert names_of(["c/a/x.csv", "d/a/x.csv"]) == ["1 x", "2 x"]
