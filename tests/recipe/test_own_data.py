"""Somebody's own data under the recipes that come with the package."""

import json
from pathlib import Path

import pandas as pd
import pytest

from hf_fer.models.language_id.train.source import choose_languages
from hf_fer.models.multimodal_fer.train.source import read_source
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import parse_task, with_fields

ROOT = Path(__file__).parents[2]
PEOPLE = ("anna", "ben", "cleo", "dan")


@pytest.fixture
def clips(tmp_path):
    rows = [(f"{name}_{label}.wav", label, name) for name in PEOPLE for label in ("happy", "sad")]
    path = tmp_path / "clips.csv"
    pd.DataFrame(rows, columns=["audio", "label", "group"]).to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("name", ["ravdess", "ravdess_audio", "ravdess_au", "small_cpu"])
def test_a_manifest_is_a_manifest_whatever_the_recipes_protocol(name, clips):
    task = parse_task(
        [
            str(ROOT / "training_args" / f"{name}.json"),
            "--dataset",
            clips,
            "--modalities",
            "audio",
            "--use_cpu",
            "true",
        ]
    )
    source = read_source(task)
    assert (source.protocol, source.labels) == ("manifest", ["happy", "sad"])
    assert source.rows.groupby("group")["split"].nunique().max() == 1
    assert with_fields(task, split_seed=1).data_args.protocol is None


def test_a_protocol_of_ravdess_that_is_asked_for_by_name_is_refused_for_a_manifest(clips):
    argv = [str(ROOT / "training_args" / "ravdess.json"), "--dataset", clips, "--protocol", "luna_5fold"]
    with pytest.raises(RecipeError, match="luna_5fold"):
        parse_task(argv)


def test_a_recipes_focus_languages_do_not_stop_a_run_on_other_languages(tmp_path):
    path = tmp_path / "recipe.json"
    fields = {"task": "language_id", "dataset": "texts.csv", "focus_languages": ["vi", "ja"], "use_cpu": True}
    path.write_text(json.dumps(fields))
    rows = pd.DataFrame({"text": ["hello", "bonjour"], "label": ["en", "fr"]})
    task = parse_task([str(path)])
    assert len(choose_languages(rows, task.data_args, task.on_command_line)[0]) == 2
    task = parse_task([str(path), "--focus_languages", "vi"])
    with pytest.raises(RecipeError, match="focus_languages"):
        choose_languages(rows, task.data_args, task.on_command_line)
