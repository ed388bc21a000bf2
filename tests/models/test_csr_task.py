"""csr through its recipes: three stages, report, atlas, interruptions, processes and bad input."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from models.test_csr_decoding import RAMP, write_dicom
from models.test_csr_explanations import Page
from PIL import Image
from runs import ROOT
from safetensors.torch import load_file
from sklearn.metrics import f1_score, roc_auc_score
from transformers import pipeline

from hf_fer.arguments import RecipeError
from hf_fer.data.loading import read_skipped
from hf_fer.models.csr import CsrConfig, CsrForImageClassification, CsrProcessor
from hf_fer.models.csr.task_csr import demo_data, positive_weights
from hf_fer.models.csr.task_images import ImageCollator, ImageTransform, Steering
from hf_fer.run import main
from hf_fer.stages import fingerprint
from hf_fer.stages import main as run_stages
from hf_fer.task import parse_task

FAST = {
    "task": "csr",
    "dataset": "demo",
    "max_train_samples": 48,
    "max_eval_samples": 24,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "learning_rate": 0.01,
    "logging_steps": 2,
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
}
BACKBONE = {"hidden_sizes": [16, 24], "depths": [1, 1], "num_stages": 2, "layer_scale_init_value": 0.1}
STAGES = {
    1: {
        "stage": 1,
        "backbone": "convnext",
        "image_size": 48,
        "config_overrides": {"backbone_config": BACKBONE, "num_prototypes": 2, "prototype_size": 8},
        "metric_for_best_model": "concept_auroc",
        "output_dir": "out/1",
    },
    2: {"stage": 2, "model_name_or_path": "out/1", "metric_for_best_model": "loss", "output_dir": "out/2"},
    3: {"stage": 3, "model_name_or_path": "out/2", "metric_for_best_model": "macro_f1", "output_dir": "out/3"},
}


def write_recipes(folder: Path, **fields) -> list[str]:
    """The three recipes, whose folders are relative to where they are run."""
    paths = []
    for number, own in STAGES.items():
        path = folder / f"csr_{number}.json"
        path.write_text(json.dumps({**FAST, **own, **fields}))
        paths.append(str(path))
    return paths


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "report" / "metrics.json").read_text())


def evaluation(folder: Path, monkeypatch, **fields) -> Path:
    """A recipe that scores stage 3's output, in the folder where it was trained."""
    monkeypatch.chdir(folder)
    path = folder / "eval.json"
    recipe = {**FAST, **STAGES[3], "model_name_or_path": "out/3", "output_dir": "eval", "do_train": False}
    path.write_text(json.dumps({**recipe, **fields}))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with three recipes and what they made, which several tests look at."""
    folder = tmp_path_factory.mktemp("csr")
    here = Path.cwd()
    os.chdir(folder)
    try:
        torch.set_num_threads(1)
        run_stages(write_recipes(folder))
    finally:
        os.chdir(here)
    return folder


class TestStages:
    def test_each_starts_from_the_one_before(self, trained):
        states = {number: load_file(trained / f"out/{number}/model.safetensors") for number in STAGES}
        for earlier, later, fixed in ((1, 2, ("backbone", "concept_head")), (2, 3, ("projector", "prototypes"))):
            for name, value in states[later].items():
                if name.startswith(fixed):
                    assert torch.equal(value, states[earlier][name]), name
        assert not torch.equal(states[1]["prototypes"], states[2]["prototypes"])
        assert not torch.equal(states[2]["classifier.weight"], states[3]["classifier.weight"])

    def test_each_chooses_by_its_own_measure(self, trained):
        for number, name in ((1, "eval_concept_auroc"), (2, "eval_loss"), (3, "eval_macro_f1")):
            state = json.loads((trained / f"out/{number}/trainer_state.json").read_text())
            values = [entry[name] for entry in state["log_history"] if name in entry]
            assert state["best_metric"] == (min(values) if number == 2 else max(values))

    def test_finished_stages_are_skipped(self, trained, monkeypatch, capsys):
        monkeypatch.chdir(trained)
        files = [trained / f"out/{number}/model.safetensors" for number in STAGES]
        before = [file.stat().st_mtime_ns for file in files]
        for overwrite in ("false", "true"):
            run_stages([*(f"csr_{number}.json" for number in STAGES), "--overwrite_output_dir", overwrite])
            assert capsys.readouterr().out.count("finished before, skipped") == 3
        assert [file.stat().st_mtime_ns for file in files] == before

    def test_a_stage_evaluates_its_own_output_by_its_own_recipe(self, trained, monkeypatch, capsys):
        monkeypatch.chdir(trained)
        given = ["--do_train", "false", "--output_dir", "again"]
        main(["csr_1.json", *given, "--model_name_or_path", "out/1"])
        again, before = (metrics_of(trained / name)["test"]["concept_auroc"] for name in ("again", "out/1"))
        assert again == before
        for field, value, told in (
            ("image_size", "224", "image_size 224: out/1 was trained with 48"),
            ("config_overrides", '{"backbone_config": {"depths": [2, 1]}}', "backbone_config.depths is that of out/1"),
        ):
            with pytest.raises(SystemExit):
                main(["csr_1.json", *given, "--model_name_or_path", "out/1", f"--{field}", value])
            assert told in capsys.readouterr().err

    def test_another_recipe_is_not_taken_for_finished(self, trained, monkeypatch, capsys):
        monkeypatch.chdir(trained)
        with pytest.raises(SystemExit):
            run_stages(["csr_2.json", "--learning_rate", "0.5"])
        assert "of another recipe" in capsys.readouterr().err

    def test_another_table_or_another_start_is_not_taken_for_finished(self, trained, tmp_path, monkeypatch, capsys):
        shutil.copytree(trained / "out/1", tmp_path / "out/1", ignore=shutil.ignore_patterns("checkpoint-*"))
        shutil.copytree(trained / "out/2", tmp_path / "out/2", ignore=shutil.ignore_patterns("checkpoint-*"))
        recipe = write_recipes(tmp_path)[1]
        monkeypatch.chdir(tmp_path)
        run_stages([recipe])
        assert "finished before, skipped" in capsys.readouterr().out
        config = json.loads(Path("out/1/config.json").read_text())
        Path("out/1/config.json").write_text(json.dumps({**config, "margin": 0.3}))
        with pytest.raises(SystemExit):
            run_stages([recipe])
        assert "started from another model" in capsys.readouterr().err

    def test_what_another_entry_trained_is_not_gone_on_with(self, tmp_path, monkeypatch, capsys):
        recipe = write_recipes(tmp_path, num_train_epochs=1)[0]
        monkeypatch.chdir(tmp_path)
        run_stages([recipe, "--dry_run", "true"])
        assert not Path("out").exists()
        main([recipe, "--learning_rate", "0.5"])
        with pytest.raises(SystemExit):
            run_stages([recipe])
        assert "holds the checkpoints of an earlier run" in capsys.readouterr().err
        assert not Path("out/1/stage.json").exists()
        before = load_file("out/1/model.safetensors")["concept_head.weight"]
        run_stages([recipe, "--overwrite_output_dir", "true"])
        assert not torch.equal(before, load_file("out/1/model.safetensors")["concept_head.weight"])

    def test_one_output_for_all_is_refused(self, trained, capsys):
        with pytest.raises(SystemExit):
            run_stages([str(trained / "csr_1.json"), "--output_dir", "x"])
        assert "same for every stage" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("stage", "start", "message"),
        [
            (3, "out/1", "a stage-1 checkpoint: its prototypes have not been trained. Run stage 2"),
            (2, "out/3", "a stage-3 checkpoint: it has come further already"),
            (2, "out", "has no csr model"),
            (2, None, "Stage 2 starts from a stage-1 checkpoint"),
        ],
    )
    def test_a_wrong_start_is_refused(self, trained, monkeypatch, capsys, stage, start, message):
        monkeypatch.chdir(trained)
        recipe = {**FAST, **STAGES[stage], "model_name_or_path": start, "output_dir": "elsewhere"}
        (trained / "wrong.json").write_text(json.dumps(recipe))
        with pytest.raises(SystemExit):
            main(["wrong.json"])
        assert message in capsys.readouterr().err
        assert not (trained / "elsewhere").exists()

    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_killed_and_resumed_ends_with_the_same_weights(self, trained, tmp_path, monkeypatch, stage):
        """SIGKILL at the first checkpoint; augmentation is on."""
        shutil.copytree(trained / "out", tmp_path / "out", ignore=shutil.ignore_patterns("checkpoint-*"))
        for later in range(stage, 4):
            shutil.rmtree(tmp_path / f"out/{later}")
        recipe = write_recipes(tmp_path)[stage - 1]
        monkeypatch.chdir(tmp_path)
        torch.set_num_threads(1)
        process = multiprocessing.get_context("fork").Process(target=run_stages, args=([recipe],))
        process.start()
        place = tmp_path / f"out/{stage}"
        while process.is_alive() and not list(place.glob("checkpoint-*/trainer_state.json")):
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert json.loads((place / "stage.json").read_text())["progress"] == "stopped"
        run_stages([recipe])
        whole, resumed = (load_file(f / f"out/{stage}/model.safetensors") for f in (trained, tmp_path))
        for name, value in whole.items():
            torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)

    def test_the_best_checkpoint_is_by_the_stage_unless_the_recipe_says(self):
        given = ["--task", "csr", "--dataset", "demo"]
        assert parse_task(given).training_args.metric_for_best_model == "concept_auroc"

    def test_channel_statistics(self, tmp_path):
        beside = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": 9}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(beside))
        given = ["--task", "csr", "--dataset", "demo"]
        weights = ["--backbone_weights", str(tmp_path / "model.safetensors")]
        means = (
            ([], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
            (weights, beside["image_mean"], beside["image_std"]),
            ([*weights, "--image_mean", "0.7", "0.8", "0.9"], [0.7, 0.8, 0.9], beside["image_std"]),
        )
        for more, mean, std in means:
            processor = parse_task([*given, *more]).build_processor(None).image_processor
            assert (list(processor.image_mean), list(processor.image_std)) == (mean, std)
        with pytest.raises(RecipeError, match="image_std needs a number for each of 3 channels"):
            parse_task([*given, "--image_std", "1"])

    def test_prototypes_are_resized_before_they_are_trained(self, trained, monkeypatch, capsys):
        monkeypatch.chdir(trained)
        for stage, refused in ((2, False), (3, True)):
            recipe = {**FAST, **STAGES[stage], "config_overrides": {"num_prototypes": 4}, "num_train_epochs": 1}
            recipe.pop("metric_for_best_model")
            (trained / "wide.json").write_text(json.dumps({**recipe, "output_dir": f"wide{stage}"}))
            if refused:
                with pytest.raises(SystemExit):
                    main(["wide.json"])
                assert "num_prototypes is that of out/2, 2" in capsys.readouterr().err
                continue
            main(["wide.json"])
            state = json.loads(Path("wide2/trainer_state.json").read_text())
            assert state["best_metric"] == min(log["eval_loss"] for log in state["log_history"] if "eval_loss" in log)
            assert load_file("wide2/model.safetensors")["prototypes"].shape[:2] == (6, 4)

    def test_other_classes_get_another_classifier(self, trained, monkeypatch):
        """As many as before, so that the old one would fit."""
        monkeypatch.chdir(trained)
        recipe = {**FAST, **STAGES[3], "model_name_or_path": "out/3", "output_dir": "other", "num_train_epochs": 1}
        (trained / "other.json").write_text(json.dumps(recipe))
        same, other = parse_task(["other.json"]), parse_task(["other.json"])
        data = same.load_data()
        old = load_file("out/3/model.safetensors")
        processor = same.build_processor(data)
        assert torch.equal(same.build_model(data, processor).classifier.weight, old["classifier.weight"])
        renamed = dataclasses.replace(other.load_data(), labels=[f"{name} x" for name in data.labels])
        model = other.build_model(renamed, processor)
        assert not torch.equal(model.classifier.weight, old["classifier.weight"])
        assert torch.equal(model.prototypes, old["prototypes"])

    def test_unfreezing_later_is_not_for_stages(self, tmp_path, capsys):
        recipe = write_recipes(tmp_path, unfreeze={"backbone": 1})[0]
        with pytest.raises(SystemExit):
            main([recipe])
        assert "unfreeze: csr has no parts" in capsys.readouterr().err


class TestReport:
    def test_measures_of_each_stage(self, trained):
        for number in STAGES:
            metrics = metrics_of(trained / f"out/{number}")["validation"]
            assert {"concept_auroc", "concept_f1", "pointing_game"} <= set(metrics)
            assert ("prototype_cosine" in metrics) == (number >= 2)
            assert ("macro_f1" in metrics) == ("prototype_pointing_game" in metrics) == (number == 3)
        assert {"reject_zero", "reject_mean", "reject_absent", "confirm", "confusion_matrix"} <= set(metrics)
        assert metrics["reject_mean"].keys() == {"macro_f1", "class_auroc"}

    def test_prototypes_do_not_collapse(self, trained):
        assert metrics_of(trained / "out/2")["validation"]["prototype_cosine"] < 0.95

    def test_files(self, trained):
        report = trained / "out/3/report"
        for name in ("per_concept.csv", "per_class.csv", "confusion_matrix_percent.png", "atlas/index.html"):
            assert (report / name).is_file()
        assert len(pd.read_csv(report / "per_concept.csv")) == 12
        assert len(list((report / "atlas").glob("*.png"))) == 6 * 2 * 2
        for number in (1, 2):
            assert not (trained / f"out/{number}/report/explanations").exists()

    def test_explanations_of_the_test_split(self, trained):
        """Two images of each of the four classes, with the atlas' patches, by the pipeline that a user loads."""
        folder = trained / "out/3/report/explanations"
        page = Page(folder / "index.html")
        assert len(page.sections) == 8
        assert {picture["src"] for picture in page.pictures} == {path.name for path in folder.iterdir()} - {
            "index.html"
        }
        patches = {path.name for path in folder.glob("source_*")}
        assert patches
        assert patches <= {f"source_{path.name}" for path in (trained / "out/3/report/atlas").iterdir()}
        explain = pipeline("concept-image-classification", model=str(trained / "out/3"))
        table = pd.read_csv(demo_data()[0]).set_index("image")
        for section in page.sections:
            name = section["h2"][0]
            answer = explain(str(demo_data()[0].parent / name))
            assert f"true: {table['class'][name]} (" in section["figcaption"][0]
            assert section["caption"] == [f"Shares of the logit of {answer['explained']}"]
            assert float(section["td"][-1]) == pytest.approx(answer["logit"], abs=1e-4)
        assert "`explanations/index.html`" in (trained / "out/3/report/report.md").read_text()

    def test_atlas_names_the_most_similar_patch(self, trained):
        """Found again with the saved model, image by image."""
        model = CsrForImageClassification.from_pretrained(trained / "out/3").eval()
        processor = CsrProcessor.from_pretrained(trained / "out/3")
        folder = demo_data()[0].parent
        page = (trained / "out/3/report/atlas/index.html").read_text()
        assert len(model.config.atlas) == 12
        for entry in model.config.atlas[::4]:
            with torch.no_grad():
                output = model(**processor(folder / entry["image"]))
            k = model.config.concepts.index(entry["concept"])
            assert output.similarities[0, k, entry["prototype"]].item() == pytest.approx(entry["similarity"], abs=1e-4)
            x, y = output.similarity_peaks[0, k, entry["prototype"]].tolist()
            x0, y0, x1, y1 = entry["box"]
            assert x0 < x < x1
            assert y0 < y < y1
            assert entry["image"] in page

    def test_pos_weight_is_of_the_whole_training_set(self, trained):
        config = CsrConfig.from_pretrained(trained / "out/1")
        per_concept = metrics_of(trained / "out/1")["data"]["counts"]["train"]
        assert sum(per_concept.values()) == 48
        assert len(config.pos_weight) == 6
        labels = np.array([[1, 0.5, 1], [0, 0.5, 0]] + [[0, 0, 0]] * 98)
        assert positive_weights(labels) == [20, 20, 20]
        assert positive_weights(labels[:4]) == [3, 3, 3]

    def test_evaluation_alone_gives_the_same_numbers(self, trained, monkeypatch):
        shutil.copytree(trained / "out/3/report/atlas", trained / "eval/report/atlas")  # of another run
        main([str(evaluation(trained, monkeypatch))])
        again, before = metrics_of(trained / "eval")["test"], metrics_of(trained / "out/3")["test"]
        same = ("concept_auroc", "confusion_matrix", "reject_mean", "pointing_game", "prototype_cosine")
        for name in (*same, "positive_boxes", "negative_boxes"):
            assert again[name] == before[name], name
        pages = [trained / f"{folder}/report/explanations" for folder in ("eval", "out/3")]
        captions = [[section["td"] for section in Page(page / "index.html").sections] for page in pages]
        assert captions[0] == captions[1]
        assert not list(pages[0].glob("source_*"))

    def test_pruned_and_retrained(self, trained, monkeypatch):
        """From stage 3's own output, so that the report has the classifier with and without."""
        monkeypatch.chdir(trained)
        overrides = {"pruned_prototypes": [["disc", 0], ["ring", 1]]}
        recipe = {**FAST, **STAGES[3], "model_name_or_path": "out/3", "config_overrides": overrides}
        (trained / "pruned.json").write_text(json.dumps({**recipe, "output_dir": "pruned"}))
        main(["pruned.json"])
        metrics = metrics_of(trained / "pruned")["test"]
        before = metrics_of(trained / "out/3")["test"]
        assert metrics["earlier_classifier"]["macro_f1"] == pytest.approx(before["macro_f1"])
        assert {"earlier_classifier_pruned", "macro_f1"} <= set(metrics)
        assert CsrConfig.from_pretrained(trained / "pruned").pruned_prototypes == overrides["pruned_prototypes"]
        assert "(pruned)" in (trained / "pruned/report/atlas/index.html").read_text()


def steering_weights(boxes: list[list[float]], kind: str, side: int) -> np.ndarray:
    """The map A of boxes in pixels of a demo image, cell by cell; no box of these is smaller than a cell."""
    weights = np.full((side, side), 0.5 if boxes and kind == "positive" else 1.0)
    for row, column in np.ndindex(weights.shape):
        x, y = (96 * (place + 0.5) / side for place in (column, row))
        if any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes):
            weights[row, column] = 1 if kind == "positive" else 0
    return weights


class TestBoxViews:
    """The same checkpoint, told by the labelled boxes where to look."""

    def test_only_in_stage_3(self, trained):
        for number in STAGES:
            for split in ("validation", "test"):
                metrics = metrics_of(trained / f"out/{number}")[split]
                assert ("positive_boxes" in metrics) == ("negative_boxes" in metrics) == (number == 3)
        assert metrics["positive_boxes"].keys() == {"class_auroc", "macro_f1", "concept_auroc"}
        assert "| negative_boxes.macro_f1 |" in (trained / "out/3/report/report.md").read_text()

    @pytest.mark.parametrize("kind", ["positive", "negative"])
    def test_equals_the_model_with_spatial_weights(self, trained, monkeypatch, kind):
        """Found again image by image, from the demo set's own table of boxes; some images have none."""
        task = parse_task([str(evaluation(trained, monkeypatch))])
        rows = task.load_data().splits["test"].to_pandas()
        model = CsrForImageClassification.from_pretrained("out/3").eval()
        processor = CsrProcessor.from_pretrained("out/3")
        corners = pd.read_csv(demo_data()[1].boxes).groupby("image")[["x_min", "y_min", "x_max", "y_max"]]
        boxes = {image: own.to_numpy().tolist() for image, own in corners}
        logits, plain = [], []
        for image, path in zip(rows["image"], rows["path"], strict=True):
            weights = steering_weights(boxes.get(image, []), kind, 6)
            with torch.no_grad():
                pixels = processor(path)["pixel_values"]
                logits.append(model(pixels, spatial_weights=torch.from_numpy(weights)[None]).logits[0])
                plain.append(model(pixels).logits[0])
        assert not all(image in boxes for image in rows["image"])
        scores = [torch.stack(each).softmax(-1).numpy() for each in (logits, plain)]
        auroc, without = (roc_auc_score(rows["labels"], each, multi_class="ovr") for each in scores)
        reported = metrics_of(trained / "out/3")["test"]
        assert reported[f"{kind}_boxes"]["class_auroc"] == pytest.approx(auroc, abs=1e-6)
        assert reported["class_auroc"] == pytest.approx(without, abs=1e-6)
        assert auroc != pytest.approx(without, abs=1e-4)
        predicted = scores[0].argmax(axis=1)
        expected = f1_score(rows["labels"], predicted, average="macro", zero_division=0)
        assert reported[f"{kind}_boxes"]["macro_f1"] == pytest.approx(expected, abs=1e-6)

    def test_an_image_that_cannot_be_read_is_not_counted(self, trained, tmp_path):
        processor = CsrProcessor.from_pretrained(trained / "out/3")
        transform = ImageTransform(processor, tmp_path / "skipped.jsonl", steering=Steering("negative", (6, 6)))
        row = {"path": "gone.png", "labels": 1, "concept_labels": [1.0] * 6, "boxes": [[2.0, 0.0, 0.0, 1.0, 0.5]]}
        example = {name: values[0] for name, values in transform({k: [v] for k, v in row.items()}).items()}
        batch = ImageCollator(processor)([example])
        assert batch["labels"].tolist() == [-100]
        assert batch["spatial_weights"][0].tolist() == [[0.0] * 6] * 3 + [[1.0] * 6] * 3

    def test_absent_without_boxes(self, trained, monkeypatch):
        table, form = demo_data()
        fields = {"dataset": str(table), "concepts": form.concepts, "class_columns": form.class_columns}
        main([str(evaluation(trained, monkeypatch, output_dir="no_boxes", **fields))])
        metrics = metrics_of(trained / "no_boxes")["test"]
        assert "macro_f1" in metrics
        assert not {"positive_boxes", "negative_boxes", "pointing_game"} & set(metrics)


def test_two_processes_equal_one(trained, tmp_path, monkeypatch):
    """pos_weight, AUROC and atlas, with a learning rate of 0, so that batches do not matter."""
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path / str(processes)
        folders[processes].mkdir()
        recipes = write_recipes(folders[processes], learning_rate=0.0, num_train_epochs=1, max_eval_samples=23)[:2]
        if processes == 1:
            monkeypatch.chdir(folders[1])
            run_stages(recipes)
            continue
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
        subprocess.run(
            [*launch, "hf_fer.stages", *recipes],
            cwd=folders[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )
    configs = {n: CsrConfig.from_pretrained(folder / "out/2") for n, folder in folders.items()}
    assert configs[1].pos_weight == configs[2].pos_weight
    for one, two in zip(configs[1].atlas, configs[2].atlas, strict=True):
        assert one["similarity"] == pytest.approx(two["similarity"], abs=1e-5)
        assert {**one, "similarity": 0} == {**two, "similarity": 0}
    for stage in (1, 2):
        one, two = (metrics_of(folder / f"out/{stage}")["validation"] for folder in folders.values())
        for name in ("concept_auroc", "concept_f1", "pointing_game"):
            assert one[name] == pytest.approx(two[name], abs=1e-5), name


def test_two_processes_evaluate_one_model(trained, tmp_path):
    """BatchNorm's statistics are those of the first: what chose the checkpoint is what its report says."""
    backbone = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    overrides = {**STAGES[1]["config_overrides"], "backbone_config": backbone}
    recipe = write_recipes(tmp_path, learning_rate=0.05)[0]
    recipe_fields = {**json.loads(Path(recipe).read_text()), "backbone": "resnet50", "config_overrides": overrides}
    Path(recipe).write_text(json.dumps(recipe_fields))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run(
        [*launch, str(ROOT / "hf_fer" / "run.py"), recipe],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    metrics = metrics_of(tmp_path / "out/1")
    assert metrics["runtime"]["best_metric"] == pytest.approx(metrics["validation"]["concept_auroc"], abs=1e-6)


class TestBadInput:
    """A folder of grey images, in which something is wrong."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        rng = np.random.default_rng(0)
        rows = []
        for index in range(24):
            image = rng.integers(0, 4096, (48, 48)).astype(np.uint16)
            name = f"{index}.dcm" if index % 2 else f"{index}.png"
            if index % 2:
                write_dicom(tmp_path / name, image)
            else:
                Image.fromarray(image).save(tmp_path / name)
            split = "val" if index >= 16 else "train"
            rows.append(
                {"image": name, "a": index % 3 == 0, "b": index % 4 == 0, "kind": "xy"[index % 2], "split": split}
            )
        table = pd.DataFrame(rows).astype({"a": int, "b": int})
        table["rare"] = (table["image"] == "5.dcm").astype(int)
        table["never"] = 0
        table.to_csv(tmp_path / "t.csv", index=False)
        return tmp_path

    def run(self, folder: Path, **fields) -> dict:
        recipe = {
            **FAST,
            **STAGES[1],
            "dataset": str(folder / "t.csv"),
            "concepts": {"a": "a", "b": "b"},
            "class_columns": ["kind"],
            "num_train_epochs": 1,
            "output_dir": str(folder / "out"),
            **fields,
        }
        (folder / "r.json").write_text(json.dumps(recipe))
        main([str(folder / "r.json")])
        return metrics_of(folder / "out")

    def error(self, capsys, folder: Path, **fields) -> str:
        with pytest.raises(SystemExit) as stopped:
            self.run(folder, **fields)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    def test_a_window_of_no_width_does_not_end_the_run(self, folder):
        write_dicom(folder / "7.dcm", RAMP[:48, :48], WindowCenter=9, WindowWidth=0)
        assert sum(self.run(folder)["data"]["counts"]["train"].values()) == 16

    def test_a_truncated_dicom_is_left_out(self, folder):
        victim = folder / "7.dcm"
        victim.write_bytes(victim.read_bytes()[:-900])
        metrics = self.run(folder, max_skipped_fraction=0.1)
        skipped = read_skipped(folder / "out/report/skipped.jsonl")
        assert [entry["path"] for entry in skipped] == [str(victim)]
        assert "truncated" in skipped[0]["reason"]
        assert sum(metrics["data"]["counts"]["train"].values()) == 15

    def test_a_test_set_of_its_own(self, folder):
        """The training table has no splits here; the card tells no folder of this machine."""
        rows = pd.read_csv(folder / "t.csv").drop(columns="split")
        rows[:18].to_csv(folder / "t.csv", index=False)
        rows[18:].to_csv(folder / "test.csv", index=False)
        metrics = self.run(folder, test_dataset=str(folder / "test.csv"), image_folder=str(folder))
        counts = {split: sum(of.values()) for split, of in metrics["data"]["counts"].items()}
        assert counts == {"train": 15, "validation": 3, "test": 6}
        assert str(folder) not in (folder / "out/README.md").read_text()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"test_boxes": "b.csv"}, "test_boxes goes with test_dataset, which is not set"),
            ({"test_dataset": "x.csv", "dataset": "demo"}, "does not go with the demo"),
            ({"test_dataset": "x.csv", "protocol": "group_kfold"}, "protocol 'group_kfold' draws one"),
        ],
    )
    def test_a_test_set_that_goes_with_nothing(self, folder, capsys, fields, message):
        assert message in self.error(capsys, folder, **fields)

    def test_a_box_outside_its_image(self, folder, capsys):
        (folder / "b.csv").write_text("image,concept,x_min,y_min,x_max,y_max\n3.dcm,a,1,1,9,9\n6.png,a,40,40,49,44\n")
        message = self.error(capsys, folder, boxes=str(folder / "b.csv"))
        assert "6.png" in message
        assert "the box 40, 40, 49, 44 of 'a' has no area or lies outside the image of 48 x 48 pixels" in message

    def test_an_8_bit_file_among_16_bit_ones(self, folder):
        Image.fromarray((RAMP[:48, :48] // 16).astype(np.uint8)).save(folder / "4.png")
        notes = self.run(folder)["data"]["notes"]
        assert any("differ in bit depth: 1 of 8 bits (such as 4.png), 12 of 12 bits" in note for note in notes)

    def test_an_unknown_concept(self, folder, capsys):
        assert "no column 'aa'; did you mean 'a'" in self.error(capsys, folder, concepts={"a": "aa"})

    def test_a_concept_with_no_positives(self, folder, capsys):
        message = self.error(capsys, folder, concepts={"a": "a", "never": "never"})
        assert "['never'] cannot be learnt: of 16 training images, [0] show it" in message
        assert "--min_concept_images" in message

    def test_rare_concepts_are_dropped_by_count_and_named(self, folder):
        concepts = {name: name for name in ("a", "rare", "b", "never")}
        metrics = self.run(folder, concepts=concepts, min_concept_images=2)
        assert "Dropped, with fewer than 2 training images: rare (1), never (0)." in metrics["data"]["notes"]
        assert CsrConfig.from_pretrained(folder / "out").concepts == ["a", "b"]

    def test_patients_on_both_sides(self, folder, capsys):
        table = pd.read_csv(folder / "t.csv").assign(patient=lambda rows: rows.index % 5)
        table.to_csv(folder / "t.csv", index=False)
        assert "in more than one split" in self.error(capsys, folder)

    def test_weights_that_do_not_fit(self, folder, capsys):
        torch.save({"some.key": torch.ones(1)}, folder / "w.pth")
        message = self.error(capsys, folder, backbone_weights=str(folder / "w.pth"))
        assert "left over: some.key" in message

    def test_a_measure_of_another_stage(self, folder, capsys):
        assert "Unknown metric_for_best_model 'macro_f1'" in self.error(
            capsys, folder, metric_for_best_model="macro_f1"
        )


class TestFolds:
    """Protocol group_kfold: every patient is tested once, and a stage goes on from the same fold of the one before."""

    ARGUMENTS = ("--protocol", "group_kfold", "--num_folds", "4")

    def test_each_patient_is_tested_once(self, tmp_path):
        recipe, tested = write_recipes(tmp_path)[0], []
        for fold in range(4):
            task = parse_task([recipe, *self.ARGUMENTS, "--fold", str(fold)])
            source, protocol, _ = task.read_source()
            assert protocol == f"group_kfold, fold {fold}"
            sides = source.rows.groupby("split")["group"].agg(set)
            assert not sides["train"] & sides["test"]
            assert not sides["validation"] & (sides["train"] | sides["test"])
            tested += sides["test"]
        assert len(tested) == len(set(tested)) == source.rows["group"].nunique()
        assert parse_task([recipe, *self.ARGUMENTS, "--fold", "all"]).num_folds() == 4
        assert parse_task([recipe]).num_folds() == 0

    def test_stages(self, trained, tmp_path, monkeypatch, capsys):
        """Stage 2 of all folds from stage 1 of all folds; from one model of all data it is refused."""
        monkeypatch.chdir(tmp_path)
        shutil.copytree(trained / "out/1", "out/1", ignore=shutil.ignore_patterns("checkpoint-*"))
        recipe = write_recipes(tmp_path)[1]
        arguments = [recipe, *self.ARGUMENTS, "--fold", "all"]
        with pytest.raises(RecipeError, match="has no fold_0: a model of all the data has seen"):
            parse_task(arguments)
        shutil.move("out/1", "one")
        for fold in range(4):
            shutil.copytree("one", f"out/1/fold_{fold}")
        task = parse_task(arguments)
        starts = [task.of_fold(fold).model_args.model_name_or_path for fold in range(4)]
        assert starts == [str(Path("out/1", f"fold_{fold}")) for fold in range(4)]
        before = fingerprint(task)
        weights = Path("out/1/fold_3/model.safetensors")
        weights.write_bytes(weights.read_bytes()[::-1])
        assert fingerprint(task) != before
        main([*arguments, "--dry_run", "true"])
        page = capsys.readouterr().out
        assert "Fold 0 of 4" in page
        assert "protocol group_kfold, fold 0" in page
        assert not Path("out/2").exists()


def test_dry_run(tmp_path, capsys):
    main([write_recipes(tmp_path)[0], "--dry_run", "true", "--output_dir", str(tmp_path / "none")])
    page = capsys.readouterr().out
    for expected in ("synthetic", "crossed", "concept_head", "activations"):
        assert expected in page
    assert not (tmp_path / "none").exists()


def test_check_command(tmp_path, capsys):
    from hf_fer.data.check import main as check

    write_dicom(tmp_path / "a.dcm", RAMP)
    (tmp_path / "b.png").write_bytes(b"no image")
    assert check([str(tmp_path), "--task", "csr"]) == 1
    page = capsys.readouterr().out
    assert "2 files" in page
    assert "b.png: not readable as an image" in page
