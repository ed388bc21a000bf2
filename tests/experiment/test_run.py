"""The one entry, end to end on real files: train, resume, evaluate, skip, stop, report, push."""

import csv
import json
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import warm
from hub_server import HubServer
from media import break_ravdess
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoConfig, AutoModelForVideoClassification, AutoProcessor, pipeline

from hf_fer.data.skipped import SkippedFile
from hf_fer.experiment.model_card import shareable_recipe
from hf_fer.run import main
from hf_fer.task.find import parse_task

ROOT = Path(__file__).parents[2]

FAST = {
    "task": "multimodal_fer",
    "model_size": "tiny",
    "config_overrides": {
        "audio_config": {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32},
        "vision_config": {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32},
        "temporal_num_layers": 1,
    },
    "num_frames": 2,
    "image_size": 32,
    "face_crop": "none",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "logging_steps": 2,
    "max_train_samples": 32,
    "max_eval_samples": 16,
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
}


@pytest.fixture
def recipe(tmp_path, small_ravdess):
    def write(**fields) -> str:
        path = tmp_path / "recipe.json"
        whole = {**FAST, "dataset": str(small_ravdess), "output_dir": str(tmp_path / "out"), **fields}
        path.write_text(json.dumps(whole))
        return str(path)

    return write


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "report" / "metrics.json").read_text())


def weights(folder: Path) -> torch.Tensor:
    state = AutoModelForVideoClassification.from_pretrained(folder).state_dict()
    return torch.cat([value.flatten().float() for value in state.values()])


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_ravdess) -> Path:
    """One run with TensorBoard and early stopping, that several tests look at."""
    folder = tmp_path_factory.mktemp("trained")
    fields = {**FAST, "dataset": str(small_ravdess), "output_dir": str(folder / "out"), "report_to": "tensorboard"}
    (folder / "r.json").write_text(json.dumps({**fields, "early_stopping_patience": 3}))
    main([str(folder / "r.json")])
    return folder / "out"


class TestReport:
    def test_everything_is_there(self, trained):
        report = {path.name for path in (trained / "report").iterdir()}
        assert report == {
            "metrics.json",
            "report.html",
            "report.md",
            "per_class.csv",
            "breakdown.csv",
            "predictions.csv",
            "risk_coverage.csv",
            "risk_coverage.png",
            "confusion_matrix_counts.png",
            "confusion_matrix_percent.png",
            "curves.png",
            "history.csv",
            "skipped.jsonl",
        }
        assert {"model.safetensors", "config.json", "processor_config.json", "README.md"} <= set(os.listdir(trained))
        assert list((trained / "runs").rglob("events.out.tfevents*"))

    def test_metrics(self, trained):
        metrics = metrics_of(trained)
        assert list(metrics) == ["task", "protocol", "validation", "test", "data", "runtime", "environment"]
        assert metrics["task"] == "multimodal_fer"
        assert metrics["protocol"] == "actors_16_4_4"
        for split in ("validation", "test"):
            assert 0 <= metrics[split]["uar"] <= 1
            assert {"accuracy", "macro_f1", "weighted_f1", "per_class", "loss"} <= set(metrics[split])
            assert set(metrics[split]["audio_only"]) == set(metrics[split]["video_only"])
            assert metrics[split]["samples"] == 16
        assert sum(metrics["data"]["counts"]["train"].values()) == 32
        assert metrics["runtime"]["steps"] == 8
        assert metrics["runtime"]["cpu_mib"] > 100
        assert metrics["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]

    def test_the_tracker_has_its_scores_and_confusion_matrix(self, trained):
        events = EventAccumulator(str(next((trained / "runs").iterdir())))
        events.Reload()
        (logged,) = events.Scalars("test/uar")
        assert logged.value == pytest.approx(metrics_of(trained)["test"]["uar"])
        assert logged.step == 8
        assert "confusion_matrix_counts" in events.Tags()["images"]
        assert all(
            name.partition("/")[0] in ("train", "eval", "validation", "test") for name in events.Tags()["scalars"]
        )

    def test_tables_agree_with_the_metrics(self, trained):
        metrics = metrics_of(trained)
        with (trained / "report" / "per_class.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 16
        recalls = [float(row["recall"]) for row in rows if row["split"] == "test"]
        assert sum(recalls) / 8 == pytest.approx(metrics["test"]["uar"], abs=1e-3)
        with (trained / "report" / "history.csv").open() as file:
            history = list(csv.DictReader(file))
        best = max(float(row["eval_uar"]) for row in history if row["eval_uar"])
        assert best == pytest.approx(metrics["validation"]["uar"])

    def test_intervals_and_breakdown(self, trained):
        metrics = metrics_of(trained)
        for split in ("validation", "test"):
            low, high = metrics[split]["uar_ci95"]
            assert 0 <= low <= metrics[split]["uar"] <= high <= 1
            assert metrics[split]["bootstrap"] == {"unit": "group", "units": 4, "draws": 2000, "seed": 0}
            assert list(metrics[split]["breakdown"]) == ["sex", "intensity", "statement"]
            for values in metrics[split]["breakdown"].values():
                assert sum(scores["n"] for scores in values.values()) == 16
        with (trained / "report" / "breakdown.csv").open() as file:
            rows = list(csv.DictReader(file))
        female = next(row for row in rows if row["split"] == "test" and row["value"] == "female")
        assert float(female["uar"]) == pytest.approx(metrics["test"]["breakdown"]["sex"]["female"]["uar"], abs=1e-4)
        for page in ("README.md", "report/report.md"):
            text = (trained / page).read_text()
            assert f"{metrics['test']['uar_ci95'][0]:.4f} to" in text
            assert "2,000 draws (seed 0) of a Bayesian bootstrap over 4 groups" in text
        assert "| sex | female |" in (trained / "report" / "report.md").read_text()

    def test_calibration_is_fitted_on_validation_and_stored(self, trained):
        metrics = metrics_of(trained)
        config = AutoConfig.from_pretrained(trained)
        for split in ("validation", "test"):
            scores = metrics[split]
            assert scores["calibration"]["temperature"] == pytest.approx(config.temperature)
            assert scores["abstention"]["threshold"] == pytest.approx(config.abstention_threshold)
            assert {"ece_before", "ece_after"} <= set(scores["calibration"])
        assert metrics["validation"]["abstention"]["coverage"] == pytest.approx(0.9, abs=0.1)
        with (trained / "report" / "risk_coverage.csv").open() as file:
            risks = [float(row["risk"]) for row in csv.DictReader(file) if row["split"] == "test"]
        assert risks[-1] == pytest.approx(1 - metrics["test"]["accuracy"], abs=1e-4)
        assert sum(risks) / 16 == pytest.approx(metrics["test"]["abstention"]["aurc"], abs=1e-4)
        for page in ("README.md", "report/report.md"):
            said = "fitted on validation" if config.temperature != 1 else "No temperature was fitted"
            assert said in (trained / page).read_text()

    def test_the_card_has_the_numbers_and_no_folder_of_this_machine(self, trained, small_ravdess):
        card = (trained / "README.md").read_text()
        assert f"{metrics_of(trained)['test']['uar']:.4f}" in card
        assert "model-index" in card
        assert "Not intended" in card
        assert str(small_ravdess.parent) not in card
        assert str(trained.parent) not in card

    def test_the_pictures_are_pictures(self, trained):
        import cv2

        for path in (trained / "report").glob("*.png"):
            picture = cv2.imread(str(path))
            assert min(picture.shape[:2]) > 300
            assert picture.std() > 5


class TestCheckpoint:
    def test_a_new_process_gets_identical_logits(self, trained, small_ravdess, tmp_path):
        model = AutoModelForVideoClassification.from_pretrained(trained).eval()
        processor = AutoProcessor.from_pretrained(trained)
        clip = str(sorted(small_ravdess.rglob("*.mp4"))[0])
        with torch.no_grad():
            logits = model(**processor(audio=clip, videos=clip)).logits
        script = (
            "import torch, hf_fer\n"
            "from transformers import AutoModelForVideoClassification, AutoProcessor\n"
            f"model = AutoModelForVideoClassification.from_pretrained({str(trained)!r}).eval()\n"
            f"inputs = AutoProcessor.from_pretrained({str(trained)!r})(audio={clip!r}, videos={clip!r})\n"
            "with torch.no_grad():\n"
            f"    torch.save(model(**inputs).logits, {str(tmp_path / 'logits.pt')!r})\n"
        )
        subprocess.run([warm.python("hugging_face"), "-c", script], check=True, capture_output=True)
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits, rtol=0, atol=0)

    def test_the_best_checkpoint_is_the_one_saved(self, trained):
        state = json.loads((trained / "trainer_state.json").read_text())
        best = trained / state["best_model_checkpoint"]  # a name: the state that stays names no folder of the machine
        torch.testing.assert_close(weights(trained), weights(best), rtol=0, atol=0)
        assert (best / "processor_config.json").is_file()

    def test_the_pipeline_takes_the_folder(self, trained, small_ravdess):
        clip = str(sorted(small_ravdess.rglob("*.mp4"))[0])
        assert len(pipeline("audio-visual-emotion-recognition", model=str(trained))(clip, top_k=3)) == 3

    def test_evaluation_alone_gives_the_same_numbers(self, trained, recipe, tmp_path):
        main([recipe(model_name_or_path=str(trained), do_train=False, output_dir=str(tmp_path / "eval"))])
        again, before = metrics_of(tmp_path / "eval"), metrics_of(trained)
        for split in ("validation", "test"):
            assert again[split]["confusion_matrix"] == before[split]["confusion_matrix"]
            assert again[split]["calibration"] == pytest.approx(before[split]["calibration"], abs=1e-6)
            assert again[split]["abstention"] == pytest.approx(before[split]["abstention"], abs=1e-6)
        assert not (tmp_path / "eval" / "model.safetensors").exists()


def test_resumed_run_equals_the_uninterrupted_one(recipe, tmp_path):
    """Dropout, modality dropout and augmentation are on: all of their randomness has to come back."""
    common = {
        "max_train_samples": 24,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_total_limit": None,
        "max_eval_samples": 8,
        "load_best_model_at_end": False,
    }
    main([recipe(**common, output_dir=str(tmp_path / "whole"))])
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "half" / "checkpoint-2")
    main([recipe(**common, output_dir=str(tmp_path / "half"), resume_from_checkpoint=True)])
    torch.testing.assert_close(weights(tmp_path / "half"), weights(tmp_path / "whole"), rtol=0, atol=0)


def test_data_loader_workers_change_nothing(recipe, tmp_path):
    common = {"max_train_samples": 16, "do_eval": False, "do_predict": False, "max_eval_samples": 8}
    for workers in (0, 2):
        torch.set_num_threads(1)  # sums over another number of threads round otherwise
        many = {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
        main([recipe(**common, **many, output_dir=str(tmp_path / str(workers)))])
    assert not [child for child in multiprocessing.active_children() if child.daemon]  # none outlives its run
    torch.testing.assert_close(weights(tmp_path / "0"), weights(tmp_path / "2"), rtol=0, atol=0)


def test_audio_alone(recipe, tmp_path):
    main([recipe(modalities=["audio"], num_train_epochs=1, freeze=["fusion"])])
    metrics = metrics_of(tmp_path / "out")
    assert "audio_only" not in metrics["test"]
    assert metrics["test"]["samples"] == 16


def test_an_earlier_run_is_not_overwritten_unasked(recipe, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "out")
    with pytest.raises(SystemExit):
        main([recipe()])
    assert "--resume_from_checkpoint true" in capsys.readouterr().err
    assert (tmp_path / "out" / "report" / "metrics.json").is_file()
    main([recipe(overwrite_output_dir=True, num_train_epochs=1)])
    assert not (tmp_path / "out" / "checkpoint-8").exists()


def test_dry_run_says_everything_and_writes_nothing(recipe, tmp_path, capsys):
    main([recipe(freeze=["vision"]), "--dry_run", "true"])
    page = capsys.readouterr().out
    for expected in ("# Recipe", "angry", "model.vision_encoder | 0 |", "activations", "effective batch size 8"):
        assert expected in page
    assert not (tmp_path / "out").exists()


class TestBadInput:
    @pytest.fixture
    def damaged(self, small_ravdess, tmp_path):
        root = Path(shutil.copytree(small_ravdess, tmp_path / "damaged"))
        return root, break_ravdess(root)

    def test_the_run_completes_on_the_rest(self, recipe, damaged, tmp_path):
        root, reasons = damaged
        main([recipe(dataset=str(root), max_skipped_fraction=0.1, max_train_samples=None, num_train_epochs=1)])
        skipped = {
            entry["path"]: entry["reason"] for entry in SkippedFile(tmp_path / "out/report/skipped.jsonl").read()
        }
        assert skipped.keys() == reasons.keys()
        for path, word in reasons.items():
            assert word in skipped[path]
        metrics = metrics_of(tmp_path / "out")
        assert metrics["data"]["skipped"] == 5
        saved = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
        names = {file.relative_to(tmp_path / "out").as_posix() for file in saved}
        assert {"training_args.bin", "report/predictions.csv"} < names
        assert any(name.startswith("checkpoint-") and name.endswith("/trainer_state.json") for name in names)
        assert not [str(file) for file in saved if str(tmp_path).encode() in file.read_bytes()]
        assert sum(metrics["data"]["counts"]["train"].values()) == 16 * 8 - 3

    def test_over_the_limit_it_stops_before_the_first_step(self, recipe, damaged, tmp_path, capsys):
        root, _ = damaged
        with pytest.raises(SystemExit) as stopped:
            main([recipe(dataset=str(root), max_train_samples=None, num_train_epochs=1)])
        assert stopped.value.code == 2
        message = capsys.readouterr().err
        assert "over max_skipped_fraction = 0.01" in message
        assert message.count("hf_fer: error") == 1
        assert len(SkippedFile(tmp_path / "out/report/skipped.jsonl").read()) == 5
        assert not list((tmp_path / "out").glob("checkpoint-*"))

    def test_a_file_that_goes_bad_during_the_run_is_skipped_too(self, recipe, small_ravdess, tmp_path, monkeypatch):
        from hf_fer.models.multimodal_fer.train.task import MultimodalFerTask

        root = Path(shutil.copytree(small_ravdess, tmp_path / "set"))
        victim = sorted(root.glob("Actor_0[1-9]/*.mp4"))[0]
        load = MultimodalFerTask.load_data

        def load_then_lose_one(task):
            data = load(task)
            victim.unlink()
            return data

        monkeypatch.setattr(MultimodalFerTask, "load_data", load_then_lose_one)
        main([recipe(dataset=str(root), max_train_samples=None, num_train_epochs=1, max_skipped_fraction=0.05)])
        skipped = SkippedFile(tmp_path / "out/report/skipped.jsonl").read()
        assert [entry["path"] for entry in skipped] == [victim.relative_to(root).as_posix()]
        assert "not found" in skipped[0]["reason"]

    def test_one_modality_is_enough_where_the_recipe_says_so(self, recipe, damaged, tmp_path):
        root, reasons = damaged
        main(
            [
                recipe(
                    dataset=str(root),
                    max_skipped_fraction=0.1,
                    max_train_samples=None,
                    num_train_epochs=1,
                    missing_modality="keep",
                )
            ]
        )
        skipped = {entry["path"] for entry in SkippedFile(tmp_path / "out/report/skipped.jsonl").read()}
        silent = {path for path, word in reasons.items() if word == "no audio track"}
        assert skipped == reasons.keys() - silent

    def test_nothing_to_choose_the_checkpoint_on(self, recipe, small_ravdess, tmp_path, capsys):
        only = tmp_path / "few"
        shutil.copytree(small_ravdess / "Actor_01", only / "Actor_01")
        with pytest.raises(SystemExit):
            main([recipe(dataset=str(only))])
        assert "no validation split" in capsys.readouterr().err


def test_a_manifest_with_other_classes(recipe, small_ravdess, tmp_path):
    rows = [
        {
            "video": str(path),
            "audio": str(path),
            "label": "loud" if path.name[6:8] == "05" else "quiet",
            "group": path.parent.name,
        }
        for path in sorted(small_ravdess.rglob("*.mp4"))
        if path.name[6:8] in ("02", "05")
    ]
    with (tmp_path / "m.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    main([recipe(dataset=str(tmp_path / "m.jsonl"), num_train_epochs=1)])
    metrics = metrics_of(tmp_path / "out")
    assert metrics["protocol"] == "manifest"
    assert list(metrics["test"]["per_class"]) == ["loud", "quiet"]
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "loud", 1: "quiet"}


def test_leaky_split_is_said_in_console_report_and_card(recipe, tmp_path, capsys, caplog):
    main([recipe(protocol="random_leaky", num_train_epochs=1)])
    assert "LEAKY SPLIT" in caplog.text
    assert "> LEAKY SPLIT" in capsys.readouterr().out
    for page in ("README.md", "report/report.md"):
        assert "LEAKY SPLIT" in (tmp_path / "out" / page).read_text()


def test_without_a_validation_split_nothing_is_calibrated(recipe, small_ravdess, tmp_path):
    """On a manifest without groups, whose intervals are then over clips, broken down by a column of its own."""
    rows = [
        {"video": str(path), "label": path.name[6:8], "split": split, "side": "left" if number % 2 else "right"}
        for number, path in enumerate(sorted(small_ravdess.rglob("*.mp4"))[:32])
        for split in ["test" if number % 4 == 0 else "train"]
    ]
    with (tmp_path / "m.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    fields = {"dataset": str(tmp_path / "m.jsonl"), "modalities": ["video"], "num_train_epochs": 1}
    main([recipe(**fields, breakdown=["side"], eval_strategy="no", load_best_model_at_end=False)])
    scores = metrics_of(tmp_path / "out")["test"]
    assert scores["bootstrap"]["unit"] == "example"
    assert set(scores["breakdown"]) == {"side"}
    assert "temperature" not in scores["calibration"]
    assert set(scores["abstention"]) == {"aurc"}
    assert AutoConfig.from_pretrained(tmp_path / "out").temperature == 1
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "Confidences are not calibrated" in page
    assert "because the data has no groups" in page


def test_check_command(small_ravdess, tmp_path, capsys):
    from hf_fer.data.check import main as check

    root = Path(shutil.copytree(small_ravdess, tmp_path / "set"))
    assert check([str(root)]) == 0
    page = capsys.readouterr().out
    for expected in ("192 files", "train 128", "angry 24", "audio-video 192", "0 unusable"):
        assert expected in page
    reasons = break_ravdess(root)
    shutil.copy(root / "Actor_03" / "01-01-01-01-01-01-03.mp4", root / "Actor_03" / "01-01-01-01-01-02-03.mp4")
    assert check([str(root)]) == 1
    page = capsys.readouterr().out
    for path, word in reasons.items():
        assert any(path in line and word in line for line in page.splitlines())
    assert "1 sets of exact duplicates" in page
    assert check([str(tmp_path / "nowhere")]) == 2


def test_check_command_on_real_clips(real_data, capsys):
    from hf_fer.data.check import main as check

    assert check([str(real_data / "grid_s1")]) == 0
    assert "60 files" in capsys.readouterr().out


def test_folders_of_this_machine_stay_here(recipe, tmp_path):
    fields = {
        "visual_features": "mine/units.npz",
        "audio_backbone": str(tmp_path / "encoder"),
        "fusion_backbone": "a/b",
    }
    told = shareable_recipe(parse_task([recipe(**fields)]))
    assert [told[name] for name in fields] == ["units.npz", "encoder", "a/b"]
    assert str(tmp_path) not in json.dumps(told, default=str)


def test_push_without_a_token_fails_before_training(recipe, tmp_path):
    path = recipe(push_to_hub=True, hub_model_id="tester/emotions")
    with HubServer(tmp_path / "hub") as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "HF_TOKEN": "hf_wrong"}
        pushed = subprocess.run(
            [warm.python("libraries"), str(ROOT / "hf_fer" / "run.py"), path],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert pushed.returncode == 2
    assert "hf auth login" in pushed.stderr
    assert not list((tmp_path / "out").glob("checkpoint-*"))
