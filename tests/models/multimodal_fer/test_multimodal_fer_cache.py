"""Caches of multimodal_fer: what is read from them is what the files and encoders give."""

import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import warm
from experiment.test_run import FAST, metrics_of, weights
from media import break_ravdess

from hf_fer.data import loading
from hf_fer.data.augment import EpochClock
from hf_fer.data.skipped import SkippedFile, saved_path
from hf_fer.models.multimodal_fer.train.building import base_processor
from hf_fer.models.multimodal_fer.train.cache import EncodedClips
from hf_fer.recipe.arguments import RecipeError
from hf_fer.run import main
from hf_fer.task.find import parse_task

ROOT = Path(__file__).parents[3]

# A float16 keeps 11 bits: encoder outputs of order 1 come back within 2^-11 = 5e-4 of themselves, and layer norms and
# averages on the way to the logits, which are below 1 in an untrained model, do not enlarge that.
HALF_PRECISION = {"rtol": 0, "atol": 1e-3}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "home")


@pytest.fixture
def recipe(tmp_path, small_ravdess):
    def write(**fields) -> str:
        path = tmp_path / "recipe.json"
        common = {"dataset": str(small_ravdess), "output_dir": str(tmp_path / "out"), "augment": False}
        path.write_text(json.dumps({**FAST, **common, **fields}))
        return str(path)

    return write


def prepared(path: str):
    """A task up to the point where training starts: itself, model, data, and the batches of two splits."""
    task = parse_task([path])
    torch.manual_seed(0)
    data = task.load_data()
    processor = task.build_processor(data)
    model = task.build_model(data, processor).eval()
    if caches := task.caches(data, processor):
        data = caches.fill(lambda: model)
    splits = task.with_transforms(data, processor, EpochClock())
    collate = task.collator(processor)
    batches = {split: collate([splits[split][index] for index in range(8)]) for split in ("train", "validation")}
    return task, model, data, batches


def cache_files(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*.arrow"))}


class TestDecoded:
    def test_batches_are_the_same_to_the_bit(self, recipe):
        _, _, _, plain = prepared(recipe())
        _, _, data, cached = prepared(recipe(cache="decoded"))
        assert data.own.by_kind().keys() == {"audio_samples", "video_frames"}
        for split, batch in plain.items():
            assert batch.keys() == cached[split].keys()
            for name, tensor in batch.items():
                torch.testing.assert_close(cached[split][name], tensor, rtol=0, atol=0)

    def test_media_are_not_read_again(self, recipe, small_ravdess, tmp_path):
        root = Path(shutil.copytree(small_ravdess, tmp_path / "set"))
        fields = {"dataset": str(root), "max_train_samples": None, "num_train_epochs": 1, "cache": "decoded"}
        task = parse_task([recipe(**fields)])
        data = task.load_data()
        shutil.rmtree(root)
        splits = task.with_transforms(data, base_processor(task), EpochClock())
        assert splits["train"][5]["pixel_values"].shape == (2, 3, 32, 32)

    def test_training_is_the_same_to_the_bit(self, recipe, tmp_path):
        for cache in ("none", "decoded"):
            torch.set_num_threads(1)
            fields = {"max_train_samples": 16, "num_train_epochs": 1, "do_predict": False}
            main([recipe(cache=cache, output_dir=str(tmp_path / cache), **fields)])
        torch.testing.assert_close(weights(tmp_path / "none"), weights(tmp_path / "decoded"), rtol=0, atol=0)

    def test_torch_keeps_its_threads(self, recipe):
        """Also where a thread begins, as autograd's do: it takes what was set last anywhere."""
        torch.set_num_threads(2)
        prepared(recipe(cache="decoded"))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2

    def test_augmentation_comes_after_it(self, recipe):
        _, _, _, plain = prepared(recipe(cache="decoded"))
        _, _, data, augmented = prepared(recipe(cache="decoded", augment=True))
        for name in ("pixel_values", "input_features"):
            assert not torch.equal(plain["train"][name], augmented["train"][name])
            torch.testing.assert_close(plain["validation"][name], augmented["validation"][name], rtol=0, atol=0)
        assert not [note for note in data.notes if "augmentation" in note]

    def test_broken_files_are_named_as_without_it(self, recipe, small_ravdess, tmp_path):
        root = Path(shutil.copytree(small_ravdess, tmp_path / "damaged"))
        reasons = break_ravdess(root)
        fields = {"dataset": str(root), "max_skipped_fraction": 0.1, "max_train_samples": None}
        found = [parse_task([recipe(cache=cache, **fields)]).load_data().skipped for cache in ("none", "decoded")]
        assert found[0] == found[1]
        assert {saved_path(entry["path"], root) for entry in found[1]} == reasons.keys()

    def test_another_size_or_number_of_frames_is_a_miss(self, recipe, tmp_path):
        prepared(recipe(cache="decoded"))
        _, _, _, batches = prepared(recipe(cache="decoded", image_size=48, num_frames=3))
        assert batches["train"]["pixel_values"].shape[1:] == (3, 3, 48, 48)
        names = [path.name.split("-")[0] for path in (tmp_path / "home" / "hf_fer" / "arrays").iterdir()]
        assert sorted(names) == ["audio_samples", "video_frames", "video_frames"]


class TestFeatures:
    FROZEN = {"cache": "features", "freeze": ["vision", "audio"]}

    def test_logits_are_those_from_the_files(self, recipe):
        _, model, _, plain = prepared(recipe())
        _, cached_model, _, cached = prepared(recipe(**self.FROZEN))
        assert cached["train"].keys() == {
            "visual_features",
            "frame_mask",
            "audio_hidden_states",
            "attention_mask",
            "labels",
        }
        assert cached["train"]["visual_features"].dtype == torch.float16
        for split in plain:
            with torch.no_grad():
                expected, logits = model(**plain[split]), cached_model(**cached[split])
            torch.testing.assert_close(logits.logits, expected.logits, **HALF_PRECISION)
            torch.testing.assert_close(logits.loss, expected.loss, **HALF_PRECISION)
            assert (expected.logits[0] - expected.logits[1]).abs().max() > 0.01  # the clips do differ

    def test_the_saved_model_scores_the_files_as_the_caches(self, recipe, tmp_path):
        main([recipe(**self.FROZEN, num_train_epochs=1)])
        self.assert_files_score_as_caches(recipe, tmp_path)

    def test_resumed_under_another_seed_the_encoders_are_the_checkpoint_s(self, recipe, tmp_path):
        main([recipe(**self.FROZEN, num_train_epochs=1)])
        main([recipe(**self.FROZEN, num_train_epochs=2, seed=9, resume_from_checkpoint=True)])
        self.assert_files_score_as_caches(recipe, tmp_path)

    def assert_files_score_as_caches(self, recipe, tmp_path):
        main([recipe(model_name_or_path=str(tmp_path / "out"), do_train=False, output_dir=str(tmp_path / "files"))])
        cached, files = metrics_of(tmp_path / "out"), metrics_of(tmp_path / "files")
        for split in ("validation", "test"):
            assert cached[split]["loss"] == pytest.approx(files[split]["loss"], abs=1e-3)
            assert cached[split]["confusion_matrix"] == files[split]["confusion_matrix"]
            assert cached[split]["audio_only"]["uar"] == files[split]["audio_only"]["uar"]

    def test_computed_once(self, recipe, monkeypatch):
        prepared(recipe(**self.FROZEN))

        def refuse(*args):
            raise AssertionError("computed again")

        monkeypatch.setattr(EncodedClips, "_visual_features", refuse)
        monkeypatch.setattr(EncodedClips, "_audio_hidden_states", refuse)
        prepared(recipe(**self.FROZEN))
        with pytest.raises(AssertionError, match="computed again"):
            prepared(recipe(**self.FROZEN, audio_normalization="utterance"))

    def test_a_changed_weight_is_a_miss(self, recipe):
        task, model, data, _ = prepared(recipe(**self.FROZEN))
        before = data.own.encoded.caches
        with torch.no_grad():
            model.model.vision_encoder.embeddings.patch_embedding.bias[0] += 1e-4
        after = task.caches(data, base_processor(task)).fill(lambda: model).own.encoded.caches
        assert after["video"].folder != before["video"].folder
        assert after["audio"].folder == before["audio"].folder

    def test_half_precision_is_another_cache(self, recipe):
        _, _, data, exact = prepared(recipe(**self.FROZEN))
        _, _, half_data, half = prepared(recipe(**self.FROZEN, bf16=True))
        assert data.own.encoded.caches["video"].folder != half_data.own.encoded.caches["video"].folder
        difference = (exact["train"]["visual_features"] - half["train"]["visual_features"]).abs().float()
        assert 1e-4 < difference.max() < 0.2  # bfloat16 keeps 8 bits

    def test_only_what_is_frozen(self, recipe):
        _, _, data, batches = prepared(recipe(cache="features", freeze=["vision"]))
        assert data.own.encoded.caches.keys() == {"video"}
        assert {"visual_features", "input_features"} <= batches["train"].keys()

    def test_clips_without_a_modality(self, recipe, small_ravdess, tmp_path):
        """Silent clips, one of them alone in its batch."""
        clips = sorted(small_ravdess.rglob("*.mp4"))[:24]
        lines = ["video,audio,label,split"]
        for index, clip in enumerate(clips):
            lines.append(
                f"{clip},{'' if index % 3 == 0 else clip},{'ab'[index % 2]},{'train' if index < 16 else 'val'}"
            )
        (tmp_path / "clips.csv").write_text("\n".join(lines))
        fields = {"dataset": str(tmp_path / "clips.csv"), "missing_modality": "keep", "max_train_samples": None}
        _, model, _, plain = prepared(recipe(**fields))
        task, cached_model, data, cached = prepared(recipe(**fields, **self.FROZEN))
        assert cached["train"]["attention_mask"].any(dim=1).tolist() == [index % 3 != 0 for index in range(8)]
        with torch.no_grad():
            logits, expected = cached_model(**cached["train"]).logits, model(**plain["train"]).logits
            torch.testing.assert_close(logits, expected, **HALF_PRECISION)
            split = task.with_transforms(data, base_processor(task), EpochClock())["train"]
            alone = cached_model(**task.collator(base_processor(task))([split[0]])).logits
            torch.testing.assert_close(alone[0], expected[0], **HALF_PRECISION)

    def test_what_is_not_finite_is_listed(self, recipe, tmp_path):
        task = parse_task([recipe(**self.FROZEN, max_skipped_fraction=1.0)])
        data = task.load_data()
        processor = task.build_processor(data)
        model = task.build_model(data, processor)
        with torch.no_grad():
            model.model.vision_encoder.post_layernorm.weight.fill_(1e6)
        data = task.caches(data, processor).fill(lambda: model)
        skipped = SkippedFile(tmp_path / "out" / "report" / "skipped.jsonl").read()
        assert len(skipped) == 64
        assert "too large for float16" in skipped[0]["reason"]
        assert task.with_transforms(data, processor, EpochClock())["train"][0]["labels"] == -100

    def test_they_are_of_the_model_that_is_evaluated(self, recipe, tmp_path):
        """And not of the checkpoints that lie in the folder, whatever the recipe says of resuming."""
        fields = {"freeze": ["vision", "audio"], "num_train_epochs": 1, "max_train_samples": 8, "do_predict": False}
        for seed in (0, 1):
            main([recipe(**fields, seed=seed, output_dir=str(tmp_path / f"seed_{seed}"))])
        start = {"do_train": False, "model_name_or_path": str(tmp_path / "seed_1")}
        here = {"cache": "features", "resume_from_checkpoint": True, "output_dir": str(tmp_path / "seed_0")}
        losses = []
        for more in ({}, here):
            main([recipe(**{**fields, **start, **more})])
            # beside the model that lies in the folder, whose report stays
            found = next((tmp_path / "seed_0" / "evaluation").iterdir()) if more else tmp_path / "out"
            losses.append(metrics_of(found)["validation"]["loss"])
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)  # features are kept in half precision

    def test_of_one_modality_of_a_model_of_two(self, recipe, tmp_path):
        main([recipe(num_train_epochs=1, max_train_samples=8, do_predict=False)])
        start = {
            "do_train": False,
            "do_predict": False,
            "model_name_or_path": str(tmp_path / "out"),
            "modalities": ["audio"],
        }
        losses = []
        for more in ({}, self.FROZEN):
            main([recipe(**start, **more, output_dir=str(tmp_path / "alone"))])
            losses.append(metrics_of(tmp_path / "alone")["validation"]["loss"])
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)

    def test_what_augmentation_cannot_do_is_said(self, recipe, tmp_path):
        main([recipe(cache="features", freeze=["vision"], augment=True, num_train_epochs=1, max_train_samples=16)])
        report = (tmp_path / "out" / "report" / "report.md").read_text()
        assert "No augmentation of pictures" in report
        assert "No augmentation of sound" not in report

    def test_nothing_frozen_is_an_error(self, recipe):
        with pytest.raises(RecipeError, match="freeze"):
            parse_task([recipe(cache="features", freeze=["fusion"])])
        with pytest.raises(RecipeError, match="freeze"):
            parse_task([recipe(cache="features", freeze=["vision"], unfreeze={"vision": 1})])

    def test_a_search_over_models_is_an_error(self, recipe):
        with pytest.raises(RecipeError, match="hp_trials"):
            parse_task([recipe(**self.FROZEN, hp_trials=2, hp_space={"learning_rate": {"low": 1e-4, "high": 1e-3}})])

    def test_dry_run_tells_the_need_and_computes_nothing(self, recipe, tmp_path, capsys):
        main([recipe(**self.FROZEN), "--dry_run", "true"])
        page = capsys.readouterr().out
        assert "visual_features of 64 files: about 0.1 MiB" in page
        assert not cache_files(tmp_path / "home")


def test_two_processes_build_what_one_builds(recipe, tmp_path):
    """With Accelerate's own command for several processes without a GPU, for which run.py has to start them."""
    fields = {**TestFeatures.FROZEN, "num_train_epochs": 1}
    main([recipe(**fields)])
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        launch += ["--main_process_port", str(free.getsockname()[1])]
    finished = subprocess.run(
        [*launch, str(ROOT / "hf_fer" / "run.py"), recipe(**fields, output_dir=str(tmp_path / "out_2"))],
        env={**os.environ, "HF_HOME": str(tmp_path / "home_2"), "PYTHON_EXEC": warm.python("libraries")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert metrics_of(tmp_path / "out_2")["runtime"]["batch"].endswith(" x 2")
    one, two = cache_files(tmp_path / "home"), cache_files(tmp_path / "home_2")
    assert {name.split("/")[2].split("-")[0] for name in one} == {
        "audio_samples",
        "video_frames",
        "visual_features",
        "audio_hidden_states",
    }
    assert one == two
