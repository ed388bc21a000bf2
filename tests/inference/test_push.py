"""`hf-fer push`: a finished run to a Hub on loopback, once and again, and as a Space that runs by itself."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import warm
import yaml
from hub_server import HubServer
from transformers import pipeline
from typer.testing import CliRunner

from hf_fer import cli
from hf_fer.inference.push import push_model, push_space, requirements
from hf_fer.recipe.arguments import RecipeError
from hf_fer.reporting import sharing
from hf_fer.runtime.failures import RunError

REPO = "tester/model"
CARD = """---
name: "run"
---
Lies in "outputs/run".

```python
classify = pipeline("some-task", model="outputs/run")
other = pipeline("some-task", model="run")
```
"""
GRADIO = """
class Interface:
    def __init__(self, answer, *args, **kwargs): self.answer, self.title = answer, kwargs["title"]
    def launch(self): raise AssertionError
class Error(Exception): pass
Video = Audio = Image = Textbox = Label = lambda **settings: None
"""
"""In place of the library: it keeps the page's function."""


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[HubServer]:
    """A Hub without a repository, that this process speaks to; an upload is tried again at once."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(sharing, "WAITS", (0.0, 0.0))
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture
def finished(systems, tmp_path) -> Path:
    """A run's folder as training leaves it: model, card, report, and what may not leave."""
    folder = Path(shutil.copytree(systems["language_id"].model, tmp_path / "run"))
    (folder / "README.md").write_text(CARD)
    for name in ("training_args.bin", "checkpoint-3/config.json", "report/predictions.csv", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("private")
    (folder / "report" / "metrics.json").write_text(json.dumps({"task": "language_id"}))
    return folder


def test_a_second_push_sends_only_what_changed(hub, finished):
    assert push_model(finished, REPO) == f"{hub.url}/{REPO}"
    files = hub.repo_files(REPO)
    expected = {".gitattributes", "README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert set(files) == {*expected, "tokenizer_config.json", "report/metrics.json"}
    card = files["README.md"].decode()
    assert card.count(f'model="{REPO}"') == 2
    assert card.startswith(CARD.partition("```")[0])  # what is no code stays

    config = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(json.dumps({**config, "note": 1}))
    hub.requests.clear()
    push_model(finished, REPO)
    assert json.loads(hub.repo_files(REPO)["config.json"])["note"] == 1
    assert not [path for method, path in hub.requests if method == "PUT"]
    push_model(finished, REPO)
    assert len(hub.commits(REPO)) == 3  # the Hub's own, and the two that changed something


def test_a_hub_that_fails_for_now_is_asked_again(hub, finished):
    hub.faults += [503, 0]
    push_model(finished, REPO)
    assert "model.safetensors" in hub.repo_files(REPO)
    assert len([path for method, path in hub.requests if method == "PUT"]) == 1  # the weights, once
    hub.faults += [500] * 3
    (finished / "config.json").write_text((finished / "config.json").read_text() + "\n")
    with pytest.raises(RunError, match="run the same command to continue"):
        push_model(finished, REPO)
    hub.faults[:] = [403]
    with pytest.raises(RunError):
        push_model(finished, REPO)
    assert hub.faults == []
    push_model(finished, REPO)
    assert len(hub.commits(REPO)) == 3


def test_a_space_runs_by_itself(hub, finished, tmp_path):
    """In a process that has neither hf_fer nor Gradio; what it answers is what the pipeline answers here."""
    push_space(finished, "tester/page")
    files = hub.repo_files("tester/page", "space")
    assert not [name for name in files if "train" in name or "private" in name or name.startswith("model/report")]
    card = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert card["sdk"] == "gradio"
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text()
    assert f"gradio=={card['sdk_version']}\n" in constraints
    assert {"numpy", "scipy"} < set(files["requirements.txt"].decode().split())
    assert "hf_fer" not in files["requirements.txt"].decode()
    place = tmp_path / "space"
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    (place / "gradio.py").write_text(GRADIO)
    code = (
        "import app, hf_fer, json; print(json.dumps([app.page.title, app.page.answer('one text'), *hf_fer.__path__]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [warm.python("hugging_face"), "-c", code],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    title, scores, path = json.loads(done.stdout.splitlines()[-1])
    assert (title, Path(path).parent) == ("page", place)
    expected = pipeline("text-language-identification", model=str(finished))("one text", top_k=10)
    assert scores == pytest.approx({entry["label"]: entry["score"] for entry in expected}, abs=1e-5)


def test_requirements_are_what_the_files_import(tmp_path):
    code = "import numpy as np\nfrom PIL import Image\nimport json\ndef f():\n    import scipy, kenlm\n"
    (tmp_path / "a.py").write_text(code)
    found = requirements([tmp_path / "a.py"])
    names = ["numpy", "pillow", "scipy", "torch", "torchvision", "transformers"]
    assert [line.partition("==")[0].lower() for line in found] == names
    assert ["==" in line for line in found] == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("damage", "message"),
    [("folder", "no such folder"), ("weights", "no weights"), ("task", "task in"), ("token", "hf auth login")],
)
def test_what_cannot_be_pushed_is_one_message(hub, finished, monkeypatch, damage, message):
    if damage == "folder":
        shutil.rmtree(finished)
    elif damage == "weights":
        (finished / "model.safetensors").unlink()
    elif damage == "task":
        (finished / "report" / "metrics.json").write_text('{"task": "language_ids"}')
    else:
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    result = CliRunner().invoke(cli.app, ["push", str(finished), REPO])
    assert result.exit_code == 2
    assert "hf_fer: error: " in result.output
    assert message in result.output
    assert not [path for _, path in hub.requests if path == "/api/repos/create"]


def test_no_hub_and_no_name_are_told_of(hub, finished, monkeypatch):
    with pytest.raises(RecipeError, match="not a valid repository name"):
        push_model(finished, "a/b/c")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RecipeError, match="cannot be reached"):
        push_model(finished, REPO)
