"""Fields of one stage of a chain, and the folders of an experiment."""

import json

import pytest

from hf_fer.experiment import stages
from hf_fer.recipe.arguments import RecipeError


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Runs a chain of two recipes, and returns the words that each stage was started with."""
    recipes = []
    for number, start in ((1, None), (2, "outputs/demo/one")):
        recipes.append(tmp_path / f"{number}.json")
        recipe = {"task": "csr", "output_dir": f"outputs/demo/{('one', 'two')[number - 1]}"}
        recipes[-1].write_text(json.dumps({**recipe, **({"model_name_or_path": start} if start else {})}))

    def run(*words: str) -> list[list[str]]:
        found = []
        monkeypatch.setattr(stages, "run_stage", lambda path, overrides: found.append(overrides))
        stages.main([*map(str, recipes), *words])
        return found

    return run


def test_a_field_of_one_stage_stands_above_that_of_all(started):
    found = started("--2.num_train_epochs", "10", "--num_train_epochs", "3", "--1.freeze", "a", "b", "--seed=1")
    assert found[0] == ["--num_train_epochs", "3", "--seed=1", "--freeze", "a", "b"]
    assert found[1] == ["--num_train_epochs", "3", "--seed=1", "--num_train_epochs", "10"]


def test_an_experiment_has_a_folder_and_its_stages_start_from_one_another(started):
    first, second = started("--experiment", "wide", "--1.seed", "4")
    assert first == ["--output_dir", "outputs/wide/one", "--run_name", "wide/one", "--seed", "4"]
    assert second[:4] == ["--output_dir", "outputs/wide/two", "--run_name", "wide/two"]
    assert second[4:] == ["--model_name_or_path", "outputs/wide/one"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--3.seed", "1"], "there are stages 1 to 2"),
        (["--output_dir", "out"], "give --experiment NAME"),
        (["--experiment", "a/b"], "give a name"),
    ],
)
def test_what_cannot_be_is_one_message(started, capsys, words, message):
    with pytest.raises(SystemExit):
        started(*words)
    assert message in capsys.readouterr().err


def test_two_stages_of_one_folder_name_are_refused(tmp_path):
    recipes = []
    for name in ("a", "b"):
        recipes.append(str(tmp_path / f"{name}.json"))
        (tmp_path / f"{name}.json").write_text(json.dumps({"task": "csr", "output_dir": f"{name}/out"}))
    with pytest.raises(RecipeError, match="two stages would go to outputs/wide/out"):
        stages.chain_fields(recipes, "wide")
