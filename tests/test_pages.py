"""Every command on README's and docs' pages runs, or the page says what it needs that is not in this repository."""

import argparse
import ast
import dataclasses
import json
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import warm
from accelerate.commands.launch import launch_command_parser
from pages import ROOT, Block, Command, blocks, commands
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from hf_fer import cli
from hf_fer.experiment.stages import fields_of
from hf_fer.recipe.arguments import RecipeError, TrainingArguments, read_recipe
from hf_fer.task.base import task_names
from hf_fer.task.find import load_task, parse_task

RECIPE = "training_args/ravdess_audio.json"
"""In place of a page's RECIPE.json, which is somebody's own."""

MODEL_VERBS = ("predict", "pseudo-label", "serve", "push", "export")
"""Verbs that need a trained model: their arguments are parsed, and they have tests of their own."""

EMOTIONS = {"03": "happy", "04": "sad"}
PEOPLE = {f"{number:02}": name for number, name in enumerate(("anna", "ben", "cleo", "dan", "eva", "finn"), start=1)}

RUN_ELSEWHERE = "docs/bring_your_own.md"
"""A page of one story, which test_bring_your_own.py builds and runs."""

COMMANDS = [command for command in commands() if not command.place.startswith(RUN_ELSEWHERE)]

PYTHON = [block for block in blocks() if block.language == "python" and block.page != RUN_ELSEWHERE]
JSON = [block for block in blocks() if block.language == "json" and block.page != RUN_ELSEWHERE]


class Parsed(Exception):
    """Raised in place of what a script does after its arguments have been parsed."""


def place(found: Block | Command) -> str:
    return found.place if isinstance(found, Command) else f"{found.page}:{found.line}"


def check_recipe(words: list[str], is_marked: bool) -> None:
    """A recipe with its fields describes a run; a marked one may lack the very file that it names."""
    words = [RECIPE if word == "RECIPE.json" else word for word in words]
    try:
        parse_task(words)
    except RecipeError as error:
        named = [*words, read_recipe(words[0])["dataset"]]
        absent = [name for name in named if "/" in name and not Path(name).exists()]
        if not (is_marked and any(name in str(error) for name in absent)):
            raise


def check_stages(words: list[str], is_marked: bool) -> None:
    """The first of the stages describes a run; the others start from what it leaves."""
    flag = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    check_recipe([words[0], *fields_of(words[flag:], 1)], is_marked)
    for recipe in words[1:flag]:
        assert read_recipe(recipe)["task"]


def check_arguments(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A script takes its arguments: it is run until its own parser has read them; the rest are fields of a recipe."""
    read, read_known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args

    def stop_after(parse):
        def parse_and_stop(self, *args):
            patch.setattr(argparse.ArgumentParser, "parse_known_args", read_known)  # which parse_args goes through
            raise Parsed(parse(self, *args))

        return parse_and_stop

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words])
        patch.setattr(sys, "path", [str(ROOT / Path(script).parent), *sys.path])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop_after(read))
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop_after(read_known))
        start = runpy.run_path if script.endswith(".py") else runpy.run_module
        with pytest.raises(Parsed) as parsed:
            start(script, run_name="__main__")
    if isinstance(parsed.value.args[0], tuple):
        known, fields = parsed.value.args[0]
        parse_task([known.recipe, *fields])


def check_program(script: str, words: list[str], is_marked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `python`, `accelerate launch` or `torchrun` starts."""
    if script in ("hf_fer/run.py", "hf_fer.run"):
        check_recipe(words, is_marked)
    elif script == "hf_fer.stages":
        check_stages(words, is_marked)
    elif script == "pytest":
        subprocess.run([sys.executable, "-m", "pytest", *words, "--noconftest", "--markers"], check=True)
    else:
        check_arguments(script, words, monkeypatch)


def check_verb(words: list[str], is_marked: bool) -> None:
    """`hf-fer` with one of its verbs; what takes no time is run."""
    if words[0] == "train":
        check_recipe(words[1:], is_marked)
    elif words[0] == "stages":
        check_stages(words[1:], is_marked)
    elif words[0] == "cross-corpus":
        first = next(index for index, word in enumerate(words) if word.startswith("--"))
        check_recipe([words[1], *words[first:]], is_marked)
    elif words[0] in MODEL_VERBS:
        typer.main.get_command(cli.app).commands[words[0]].make_context(words[0], words[1:])
    elif words[0] == "--install-completion":
        assert words[0] in CliRunner().invoke(cli.app, ["--help"]).output
    elif is_marked:
        shown = CliRunner().invoke(cli.app, [words[0], "--help"])
        assert shown.exit_code == 0
        assert all(word in shown.output for word in words if word.startswith("--"))
    else:
        assert CliRunner().invoke(cli.app, words).exit_code == 0


def check_pip(words: list[str]) -> None:
    """Files that pip is given are here, and the extras are the package's."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        name, _, extra = word.rstrip("]").partition("[")
        assert not extra or (name in (".", "hf_fer") and extra in extras)
        assert not word.endswith(".txt") or Path(word).is_file()


def check(words: list[str], is_marked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command; what this does not know has to be marked."""
    match words:
        case ["accelerate", "launch", *rest]:
            asked = launch_command_parser().parse_args(rest)
            assert asked.config_file is None or Path(asked.config_file).is_file()
            check_program(asked.training_script, asked.training_script_args, is_marked, monkeypatch)
        case ["torchrun", *rest]:
            asked = get_args_parser().parse_args(rest)
            check_program(asked.training_script, asked.training_script_args, is_marked, monkeypatch)
        case ["python3", "-m", "venv", _] | [".", ".venv/bin/activate"] | ["echo", *_]:
            pass
        case ["python", "-m", script, *rest] | ["python", script, *rest]:
            check_program(script, rest, is_marked, monkeypatch)
        case ["hf-fer", *rest]:
            check_verb(rest, is_marked)
        case ["curl", *_]:
            pass  # inference/serve/test_curl_lines.py runs them
        case ["pip", "install", *rest]:
            check_pip(rest)
        case _:
            assert is_marked, f"{words}: not known; mark it with '# needs ...'"


@pytest.mark.parametrize("command", COMMANDS, ids=place)
def test_a_command_is_one_that_runs(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in command.parts if not command.text.startswith("for ") else []:  # the five lines' test runs that
        check(words, command.is_marked, monkeypatch)


@pytest.mark.parametrize("text", ["hf_fer/run.py training_args/demo/mulitmodal_fer.json", "-m hf_fer.chekc clips.csv"])
def test_a_command_with_a_mistake_is_noticed(text, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((RecipeError, ImportError)):
        check(["python", *text.split()], False, monkeypatch)


@pytest.mark.parametrize("block", PYTHON, ids=place)
def test_lines_of_python_compile_and_their_imports_are_there(block):
    tree = ast.parse(block.text)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, place(block), "exec"), {})


@pytest.mark.parametrize("block", JSON, ids=place)
def test_parts_of_recipes_are_json_with_known_fields(block):
    tasks = [load_task(name) for name in task_names()]
    classes = [TrainingArguments, *(c for task in tasks for c in (task.model_arguments, task.data_arguments))]
    known = {field.name for arguments in classes for field in dataclasses.fields(arguments)}
    assert set(json.loads(f"{{{block.text}}}")) <= known


@pytest.fixture(scope="module")
def newcomer(small_ravdess, tmp_path_factory):
    """A folder as README leaves it: the repository's files, and clips of one's own by emotion and person."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("accelerate_configs", "hf_fer", "model_cards", "training_args"):
        (folder / name).symlink_to(ROOT / name)
    for clip in sorted(small_ravdess.rglob("*.mp4")):
        _, _, emotion, *_, actor = clip.stem.split("-")
        if emotion in EMOTIONS and actor in PEOPLE:
            target = folder / "clips" / EMOTIONS[emotion] / f"{PEOPLE[actor]}_1.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(clip, target)
    return folder


def test_readmes_five_lines_and_its_pipeline_run_as_they_stand(newcomer, tmp_path):
    lines = next(block.text for block in blocks() if "for clip in" in block.text)
    python = warm.python("hugging_face")
    launcher = tmp_path / "accelerate"
    launcher.write_text(f'#!/bin/sh\nexec "{python}" -m accelerate.commands.accelerate_cli "$@"\n')
    launcher.chmod(0o755)
    for line in lines.splitlines():
        folders = [Path(sys.executable).parent, os.environ["PATH"]]
        if "--dry_run" not in line:  # one line starts all that it starts from nothing
            folders = [launcher.parent, Path(python).parent, *folders]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": os.pathsep.join(map(str, folders))}
        subprocess.run(["bash", "-c", line], cwd=newcomer, env=environment, check=True)
    assert len((newcomer / "clips.csv").read_text().splitlines()) == 13
    assert (newcomer / "outputs" / "small_cpu" / "report" / "metrics.json").is_file()

    # The pipeline's lines name the demo's model; this one stands in for it.
    (newcomer / "outputs" / "demo").mkdir()
    (newcomer / "outputs" / "small_cpu").rename(newcomer / "outputs" / "demo" / "multimodal_fer")
    shutil.copyfile(newcomer / "clips" / "happy" / "anna_1.mp4", newcomer / "clip.mp4")
    unmarked = [block.text for block in PYTHON if not block.is_marked]
    assert len(unmarked) == 1
    subprocess.run([python, "-c", unmarked[0]], cwd=newcomer, env=environment, check=True)
