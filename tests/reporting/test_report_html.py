"""The report as one HTML file, and what a run says last."""

import re

import numpy as np

from hf_fer.experiment import score as results
from hf_fer.reporting import html as report_html
from hf_fer.reporting import report
from hf_fer.task.find import parse_task

SCORES = {"uar": 0.5, "uar_ci95": [0.25, 0.75], "samples": 1200, "remarks": ["Few groups."], "warnings": ["Too few."]}


def metrics() -> dict:
    return {
        "task": "multimodal_fer",
        "protocol": "manifest",
        "validation": {"absent": "not asked for"},
        "test": SCORES,
        "data": {
            "counts": {"train": {"<b>angry</b>": 3, "sad": 4}},
            "skipped": 2,
            "notes": ["LEAKY split."],
            "absent": {"validation": "no such rows"},
        },
        "runtime": {"epochs": 3.0, "batch": "4 x 1 x 1"},
    }


def test_the_page_holds_all_that_it_shows(tmp_path):
    report.plot_confusion_matrix(tmp_path / "matrix.png", np.eye(2), ["a", "b"], percent=False, split="test")
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas" / "patient.png").write_bytes(b"a picture of somebody")
    captions = {
        "atlas/patient.png": "An image.",
        "matrix.png": "Confusion matrix.",
        "per_class.csv": "Scores by class.",
    }
    report_html.write_html(tmp_path, metrics(), report.headline({"test": SCORES}, "uar"), captions)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Test UAR 0.500 (95% interval 0.250 to 0.750), 1,200 examples" in page
    for text in (
        "LEAKY split.",
        "Test: Few groups.",
        "Test: Too few.",
        "The validation split has no scores: no such rows.",
    ):
        assert text in page
    assert page.index("Too few.") < page.index("<h2>Results")
    assert "<b>angry" not in page
    assert "&lt;b&gt;angry" in page
    assert page.count("<img") == 1
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert "http" not in page


def test_a_page_without_scores(tmp_path):
    facts = {**metrics(), "test": {"absent": "not asked for"}}
    report_html.write_html(tmp_path, facts, None, {})
    assert "Nothing was evaluated." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_headline_is_of_test_where_there_is_one():
    assert report.headline({}, "uar") is None
    assert report.headline({"validation": {"macro_f1": 0.25}}, "macro_f1") == "Validation macro f1 0.250"
    assert report.headline({"validation": {"uar": 0.1}, "test": {"uar": 0.2}}, "uar") == "Test UAR 0.200"
    found = {"weighted_f1": 0.9, "accuracy": 0.8, "accuracy_ci95": [0.7, 0.9]}
    words = "Test weighted f1 0.900, accuracy 0.800 (95% interval 0.700 to 0.900)"
    assert report.headline({"test": found}, "class_auroc", "weighted_f1") == words


def test_the_last_words_say_score_model_report_and_use(tmp_path):
    fields = ["--task", "multimodal_fer", "--dataset", "demo", "--output_dir", str(tmp_path)]
    words = results.closing_lines(parse_task(fields), {"test": SCORES})
    assert words.splitlines()[0] == "Test UAR 0.500 (95% interval 0.250 to 0.750), 1,200 examples"
    assert f"Model: {tmp_path}" in words
    assert f"Report: {tmp_path / 'report' / 'report.html'}" in words
    assert f'model="{tmp_path}"' in words
    evaluated = results.closing_lines(parse_task([*fields, "--do_train", "false"]), {"test": SCORES})
    assert "Model:" not in evaluated
