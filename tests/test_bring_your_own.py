"""The page that adds a fifth system, built and run from the page itself."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import warm
from pages import ROOT, blocks, split_comment
from PIL import Image

from hf_fer import models
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import load_task

PAGE = "docs/bring_your_own.md"
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def page_blocks(language: str) -> list[str]:
    return [block.text for block in blocks() if block.page == PAGE and block.language == language]


def write_system(folder: Path) -> None:
    """The page's files, each named by its first line, and its recipe."""
    for text in [*page_blocks("python"), *page_blocks("text")]:
        if named := re.match(r"# (my_systems/\S+)\n", text):
            file = folder / named[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text[named.end() :])
    (folder / "my_systems" / "tiny_images" / "train" / "__init__.py").touch()
    (recipe,) = page_blocks("json")
    (folder / "tiny_images.json").write_text(recipe)


def write_images(folder: Path) -> None:
    """Noisy images of one colour each, eight sources of each colour."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    lines = ["path,label,group"]
    for name, colour in COLOURS.items():
        for number in range(24):
            pixels = np.clip(np.array(colour) + draw.normal(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}_{number}.png")
            lines.append(f"{name}_{number}.png,{name},{name} {number % 8}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")


def state_of(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


TYPE = """
import json, sys
from hf_fer import cli
for words in json.loads(sys.argv[1]):
    try:
        cli.app(words, standalone_mode=False)
    except SystemExit as end:
        assert not end.code, words
"""
"""Runs the page's commands in one process: importing torch for each would take most of the test's time."""


class Newcomer:
    """A folder with the page's files, and somebody who types its commands there."""

    def __init__(self, folder: Path):
        self.folder = folder
        write_system(folder)
        write_images(folder / "images")

    def run(self, *words: str, preload: str = "hugging_face", **environment: str) -> str:
        done = subprocess.run(
            [warm.python(preload), *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_FER_SYSTEMS": "my_systems", **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory) -> Newcomer:
    return Newcomer(tmp_path_factory.mktemp("newcomer"))


def test_the_page_builds_a_system_that_trains_reports_and_evaluates(newcomer):
    before = state_of(ROOT / "hf_fer")
    (text,) = page_blocks("bash")
    lines = [split_comment(line)[0].split() for line in text.splitlines()]
    output = newcomer.run("-c", TYPE, json.dumps([words[1:] for words in lines if words[0] == "hf-fer"]))
    assert "72 examples in 72 files" in output
    assert "by label: blue 24, green 24, red 24" in output

    model = newcomer.folder / "outputs" / "tiny_images"
    metrics = json.loads((model / "report" / "metrics.json").read_text())
    assert metrics["task"] == "tiny_images"
    assert metrics["data"]["test_groups_unseen"]
    assert metrics["test"]["uar"] == 1.0
    assert "not meant for use" in (model / "README.md").read_text()
    assert len(list(model.glob("evaluation*/**/metrics.json"))) == 1
    assert state_of(ROOT / "hf_fer") == before


def test_the_trained_model_answers_where_this_package_is_not_known(newcomer, tmp_path):
    (use,) = [text for text in page_blocks("python") if "classify(" in text and "class " not in text]
    use += "\nimport sys\nassert 'hf_fer' not in sys.modules\n"
    environment = {"PYTHONPATH": "", "HF_FER_SYSTEMS": "", "HF_MODULES_CACHE": str(tmp_path)}
    assert "red" in newcomer.run("-c", use, preload="libraries", **environment)


def test_a_folder_of_systems_that_is_not_there_or_takes_a_name_is_an_error(newcomer, tmp_path):
    taken = tmp_path / "taken"
    shutil.copytree(newcomer.folder / "my_systems" / "tiny_images", taken / "csr")
    for folder, message in ((tmp_path / "none", "there is no folder"), (taken, "both have csr; rename one")):
        done = subprocess.run(
            [sys.executable, "-c", "import hf_fer.models"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_FER_SYSTEMS": str(folder)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert message in done.stderr


def test_a_system_without_a_text_for_its_card_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "bare" / "train").mkdir(parents=True)
    (tmp_path / "bare" / "__init__.py").touch()
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    with pytest.raises(RecipeError, match=r"bare has no text for its model card: write card.md"):
        load_task("bare")
