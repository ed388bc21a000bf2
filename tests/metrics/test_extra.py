"""Metrics that a recipe adds by the path of a file."""

import numpy as np
import pytest
from datasets import DatasetDict
from transformers import EvalPrediction

from hf_fer.data.loading import DataError, LoadedData
from hf_fer.metrics.extra import MetricError, extra_figures, load_metric
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import parse_task
from hf_fer.task.scoring import Trained, with_extra

METRIC = """
import datasets
import evaluate


class Agreement(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        right = sum(one == other for one, other in zip(predictions, references))
        return {"KEY": right / len(references), "right": right, "names": ["a"]}
"""


@pytest.fixture
def metric(tmp_path):
    """Writes a metric's file, whose figure has the file's own name."""

    def write(name: str = "agreement", key: str | None = None) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(METRIC.replace("KEY", key or name))
        return str(path)

    return write


def words(*extra: str) -> list[str]:
    return ["--task", "language_id", "--dataset", "demo", "--use_cpu", "true", "--extra_metrics", *extra]


def test_numbers_are_named_after_the_file(metric):
    figures = extra_figures([metric()], np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0]))
    assert figures == {"agreement": 0.75, "agreement_right": 3.0}


def test_a_recipes_metric_is_logged_and_may_choose_the_checkpoint(metric):
    task = parse_task([*words(metric()), "--metric_for_best_model", "agreement"])
    assert task.training_args.greater_is_better
    trained = Trained(model=None, processor=None, data=LoadedData(DatasetDict(), ["de", "en"], "manifest"))
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    found = task.compute_metrics(EvalPrediction(logits, np.array([0, 0, -100])), trained)
    assert found["agreement"] == found["accuracy"] == 0.5  # what could not be read does not count


def test_what_cannot_be_loaded_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(RecipeError, match=r"extra_metrics: there is no file .*none\.py"):
        parse_task(words(str(tmp_path / "none.py")))
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(RecipeError, match=r"broken\.py cannot be loaded"):
        parse_task(words(str(tmp_path / "broken.py")))


def test_a_metric_of_other_values_is_named(metric):
    with pytest.raises(MetricError, match="cannot be computed from this system's predictions"):
        extra_figures([metric()], ["a text"], ["another"])


def test_a_name_that_is_taken_is_refused(metric):
    args = parse_task(words(metric("accuracy"))).training_args
    with pytest.raises(DataError, match="computes accuracy already"):
        with_extra({"accuracy": 1.0}, args, [0], [0])


def test_metrics_of_the_hub_go_by_name():
    with pytest.raises(MetricError, match="a metric on the Hub"):
        load_metric("matthews_correlation_that_is_not_there")


def test_stages_without_classes_refuse_them(metric):
    with pytest.raises(RecipeError, match="stage 1 does not predict"):
        parse_task(["--task", "csr", "--dataset", "demo", "--use_cpu", "true", "--extra_metrics", metric()])
