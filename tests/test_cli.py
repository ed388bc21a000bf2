"""The command `hf-fer`, as a user types it."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import warm
from typer.testing import CliRunner

from hf_fer import __version__, cli
from hf_fer.recipe.arguments import (
    DataArguments,
    ModelArguments,
    RecipeError,
    TrainingArguments,
    make_parser,
    read_recipe,
)
from hf_fer.recipe.shipped import find_recipe, shipped_folder, shipped_recipes

ROOT = Path(__file__).parent.parent


def invoke(*words):
    return CliRunner().invoke(cli.app, list(words))


def test_help_is_one_screen_and_names_every_verb():
    result = invoke("--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) <= 30
    for verb in ("train", "check", "dry-run", "stages", "demo", "cache", "env", "recipe", "predict", "serve", "push"):
        assert f"\n  {verb} " in result.output
    summaries = result.output.partition("Commands:")[2].replace("value ...", "")
    assert "..." not in summaries  # no line is cut short


def test_a_system_adds_verbs_by_its_folder():
    for file in (ROOT / "hf_fer" / "models").glob("*/verbs.toml"):
        for name, verb in tomllib.loads(file.read_text(encoding="utf-8")).items():
            assert verb["help"] in invoke("--help").output
            result = invoke(name, "--help")
            assert result.exit_code == 0
            assert f"usage: hf-fer {name}" in result.output


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom hf_fer import cli\n"
        "assert CliRunner().invoke(cli.app, ['--help']).exit_code == 0\n"
        "loaded = {'torch', 'transformers', 'pandas', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("order", ["import hf_fer, transformers", "import transformers, hf_fer"])
def test_models_are_registered_whichever_is_imported_first(order):
    code = (
        f"{order}\nfrom transformers import AutoConfig\nfrom transformers.pipelines import PIPELINE_REGISTRY\n"
        "assert 'audio-visual-emotion-recognition' in PIPELINE_REGISTRY.get_supported_tasks()\n"
        "assert AutoConfig.for_model('csr').model_type == 'csr'\n"
    )
    subprocess.run([warm.python("libraries"), "-c", code], check=True, cwd=ROOT)


def test_version():
    assert invoke("--version").output.strip() == f"hf_fer {__version__}"


def test_environment_names_versions_and_extras():
    output = invoke("env").output
    for word in ("python: ", "torch ", "accelerator: ", "extras not installed: "):
        assert word in output


def test_recipes_are_found_by_name_and_a_file_comes_first(tmp_path, monkeypatch):
    assert read_recipe("ravdess_audio") == json.loads((ROOT / "training_args/ravdess_audio.json").read_text())
    assert set(shipped_recipes()) >= {"ravdess", "demo/multimodal_fer", "demo/csr_1_concepts"}
    monkeypatch.chdir(tmp_path)
    Path("ravdess_audio").write_text('{"task": "csr"}')
    assert find_recipe("ravdess_audio") == Path("ravdess_audio")
    assert read_recipe("ravdess_audio") == {"task": "csr"}
    with pytest.raises(RecipeError, match="did you mean 'language_id'"):
        read_recipe("languageid.json")


def test_files_beside_the_package_are_there():
    assert (shipped_folder("accelerate_configs") / "cpu.yaml").is_file()
    assert (shipped_folder("model_cards") / "template.md").is_file()


def test_a_recipe_is_copied_once(tmp_path):
    assert invoke("recipe", "copy", "demo/language_id", str(tmp_path)).exit_code == 0
    copy = tmp_path / "language_id.json"
    assert copy.read_bytes() == (ROOT / "training_args/demo/language_id.json").read_bytes()
    copy.write_text("mine")
    again = invoke("recipe", "copy", "demo/language_id", str(tmp_path))
    assert again.exit_code == 2
    assert "exists already" in again.output
    assert copy.read_text() == "mine"
    assert invoke("recipe", "copy", "no_such").exit_code == 2


def test_fields_are_listed_once_by_group_with_their_defaults():
    page = make_parser((ModelArguments, DataArguments, TrainingArguments), {"learning_rate": 0.5}).format_help()
    lines = [line.strip() for line in page.splitlines()]
    names = [line for line in lines if line.startswith("--")]
    assert len(names) == len(set(names))
    assert not [name for name in names if "-" in name.removeprefix("--")]
    assert "Default: 0.5." in page
    assert lines.index("--task") < lines.index("--dataset") < lines.index("--warmup_ratio") < lines.index("--optim")
    assert "--remove_unused_columns" not in names


@pytest.mark.parametrize("words", [["train", "no_such_recipe"], ["dry-run", "no_such_recipe"], ["stages", "no_such"]])
def test_verbs_hand_over_to_the_modules_that_do_the_work(words, capsys):
    result = invoke(*words)
    assert result.exit_code == 2
    assert "recipe not found" in result.stderr


def test_check_and_cache_answer(tmp_path):
    assert invoke("check", str(tmp_path / "missing.csv")).exit_code == 2
    assert "caches in" in invoke("cache").output


def test_a_demo_that_does_not_exist_is_one_message():
    result = invoke("demo", "nothing")
    assert result.exit_code == 2
    assert "multimodal_fer" in result.output
