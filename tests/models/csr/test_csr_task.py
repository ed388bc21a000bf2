"""csr through its recipes: report, atlas, boxes and processes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from models.csr.test_csr_explanations import Page
from models.csr_runs import FAST, STAGES, metrics_of, write_recipes
from runs import ROOT, torchrun
from sklearn.metrics import f1_score, roc_auc_score
from transformers import pipeline

from hf_fer.data.skipped import SkippedFile
from hf_fer.experiment.stages import main as run_stages
from hf_fer.models.csr import CsrConfig, CsrForImageClassification, CsrProcessor
from hf_fer.models.csr.train.building import positive_weights
from hf_fer.models.csr.train.demo import demo_data
from hf_fer.models.csr.train.images import ImageCollator, ImageTransform, Steering
from hf_fer.recipe.arguments import RecipeError
from hf_fer.run import main
from hf_fer.task.find import parse_task


def evaluation(folder: Path, monkeypatch, **fields) -> Path:
    """A recipe that scores stage 3's output, in the folder where it was trained."""
    monkeypatch.chdir(folder)
    path = folder / "eval.json"
    recipe = {**FAST, **STAGES[3], "model_name_or_path": "out/3", "output_dir": "eval", "do_train": False}
    path.write_text(json.dumps({**recipe, **fields}))
    return path


def test_a_rule_of_another_type_is_refused():
    with pytest.raises(RecipeError, match=r"concepts: 'dot' needs the name of a column .*, got 1"):
        parse_task(["--task", "csr", "--dataset", "t.csv", "--concepts", '{"dot": 1}', "--use_cpu", "true"])


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
        images = pd.read_csv(trained / "out/3/report/atlas/sources.csv")["image"]
        assert not any("image" in entry for entry in model.config.atlas)  # a configuration is shared, names are not
        for entry, image in list(zip(model.config.atlas, images, strict=True))[::4]:
            with torch.no_grad():
                output = model(**processor(folder / image))
            k = model.config.concepts.index(entry["concept"])
            assert output.similarities[0, k, entry["prototype"]].item() == pytest.approx(entry["similarity"], abs=1e-4)
            x, y = output.similarity_peaks[0, k, entry["prototype"]].tolist()
            x0, y0, x1, y1 = entry["box"]
            assert x0 < x < x1
            assert y0 < y < y1
            assert image in page

    def test_pos_weight_is_of_the_whole_training_set(self, trained):
        config = CsrConfig.from_pretrained(trained / "out/1")
        per_concept = metrics_of(trained / "out/1")["data"]["counts"]["train"]
        assert sum(per_concept.values()) == 48
        assert len(config.pos_weight) == 6
        labels = np.array([[1, 0.5, 1], [0, 0.5, 0]] + [[0, 0, 0]] * 98)
        assert positive_weights(labels) == [20, 20, 20]
        assert positive_weights(labels[:4]) == [3, 3, 3]

    def test_evaluation_alone_gives_the_same_numbers(self, trained, monkeypatch):
        shutil.copytree(trained / "out/3/report/atlas", trained / "eval/report/atlas")
        shutil.copy(trained / "out/3/.hf_fer.json", trained / "eval")  # so the atlas is another run's, and is replaced
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
        transform = ImageTransform(
            processor, SkippedFile(tmp_path / "skipped.jsonl"), steering=Steering("negative", (6, 6))
        )
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
        torchrun("-m", "hf_fer.stages", *recipes, cwd=folders[2]).check_returncode()
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
    torchrun(str(ROOT / "hf_fer" / "run.py"), recipe, cwd=tmp_path).check_returncode()
    metrics = metrics_of(tmp_path / "out/1")
    assert metrics["runtime"]["best_metric"] == pytest.approx(metrics["validation"]["concept_auroc"], abs=1e-6)


def test_dry_run(tmp_path, capsys):
    main([write_recipes(tmp_path)[0], "--dry_run", "true", "--output_dir", str(tmp_path / "none")])
    page = capsys.readouterr().out
    for expected in ("synthetic", "crossed", "concept_head", "activations"):
        assert expected in page
    assert not (tmp_path / "none").exists()
